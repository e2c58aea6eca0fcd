"""Each thing that is borrowed from Keras' private API: a failure here names what Keras moved."""

import contextlib
import inspect
import threading

import keras
import numpy as np
import pytest
from keras.src.losses import loss as keras_loss

from keras_cool import keras_private
from support.replicas import mirrored_strategy

X, Y = np.ones((4, 3), "float32"), np.ones((4, 1), "float32")


@pytest.fixture
def model():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", loss="mse")
    return model


def test_trainer_is_the_class_with_train_step_and_fit():
    trainer = keras_private.Trainer
    assert issubclass(keras.Model, trainer)
    assert {"fit", "train_step", "train_on_batch"} <= set(vars(trainer))
    assert keras.Model.train_step is trainer.train_step


def test_train_step_takes_what_the_adapters_pass():
    parameters = list(inspect.signature(keras_private.Trainer.train_step).parameters)
    stateless = keras.backend.backend() == "jax"
    assert parameters == (["self", "state", "data"] if stateless else ["self", "data"])


def test_tensorflow_defers_building_through_the_method_that_is_overridden():
    exists = hasattr(keras_private.Trainer, "_maybe_symbolic_build")
    assert exists == (keras.backend.backend() == "tensorflow")
    parameters = inspect.signature(keras.Model._symbolic_build).parameters
    assert list(parameters) == ["self", "iterator", "data_batch"]


def test_functional_is_the_class_of_functional_models(model):
    assert type(model) is keras_private.Functional


def test_functional_init_arguments():
    assert keras_private.functional_init_arguments((1, 2), {})
    assert keras_private.functional_init_arguments((), {"inputs": 1, "outputs": 2})
    assert not keras_private.functional_init_arguments((), {"name": "model"})


def test_functional_injection_changes_the_bases_of_a_subclass():
    """`keras_cool.Model` does by hand what Keras does for subclasses of `keras.Model`."""

    class Sub(keras.Model):
        pass

    inputs = keras.Input((3,))
    Sub(inputs, keras.layers.Dense(1)(inputs))
    assert Sub.__bases__ == (keras_private.Functional,)


def test_overlay_scope_reads_through_and_collects():
    a, b, c = (keras.Variable(float(i)) for i in range(3))
    one, two = keras.ops.convert_to_tensor(10.0), keras.ops.convert_to_tensor(20.0)
    with keras_private.OverlayScope([(a, one)]) as outer:
        with keras_private.OverlayScope([(b, two)]) as inner:
            assert [float(v.value) for v in (a, b, c)] == [10.0, 20.0, 2.0]
            c.assign(5.0)
            b.assign_add(1.0)
            assert [float(v.value) for v in (a, b, c)] == [10.0, 21.0, 5.0]
        assert [v.path for v, _ in inner.updates] == [c.path, b.path]
        assert [float(value) for _, value in inner.updates] == [5.0, 21.0]
        assert [float(v.value) for v in (a, b, c)] == [10.0, 1.0, 2.0]
        assert outer.updates == []
    assert [float(v.value) for v in (a, b, c)] == [0.0, 1.0, 2.0]


def test_overlay_scope_collects_losses():
    layer = keras.layers.ActivityRegularization(l2=1.0)
    with keras_private.OverlayScope():
        layer(keras.ops.ones((2, 3)))
        assert len(layer.losses) == 1
    assert layer.losses == []


def test_forward_and_loss_are_those_of_the_model(model):
    y_pred = keras_private.forward(model, keras.ops.convert_to_tensor(X))
    expected = model.predict(X, verbose=0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y_pred), expected, rtol=1e-6)
    loss = keras_private.training_loss(model, X, keras.ops.convert_to_tensor(Y), y_pred, None)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(loss), ((expected - Y) ** 2).mean(), rtol=1e-6
    )


def test_loss_tracker_is_the_metric_called_loss(model):
    tracker = keras_private.loss_tracker(model)
    assert tracker.name == "loss"
    assert any(metric is tracker for metric in model.metrics)


def test_batch_size_skips_missing_inputs():
    assert int(keras_private.batch_size({"a": None, "b": keras.ops.ones((5, 2))})) == 5


def test_unscaled_for_replicas_is_the_identity_on_one_device():
    loss = keras.ops.convert_to_tensor(2.0)
    assert float(keras_private.unscaled_for_replicas(loss)) == 2.0


@pytest.mark.backend("tensorflow")
def test_losses_of_one_replica_are_not_divided():
    import tensorflow as tf

    loss, y = keras.losses.MeanSquaredError(), keras.ops.ones((2, 1))
    with mirrored_strategy().scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
        model.compile(loss=["mse", "mse"])
        assert tf.distribute.get_strategy().num_replicas_in_sync == 2
        assert float(loss(y, 0 * y)) == float(model._aggregate_additional_loss(y[0, 0])) == 0.5
        with keras_private.LossesOfOneReplica():
            assert float(loss(y, 0 * y)) == float(model._aggregate_additional_loss(y[0, 0])) == 1
            assert float(keras_loss.unscale_loss_for_distribution(y[0, 0])) == 1
        assert float(keras_loss.unscale_loss_for_distribution(y[0, 0])) == 2


def test_the_compiled_optimizer_is_the_one_that_is_saved(model):
    keras_private.set_compiled_optimizer(model, keras.optimizers.Adam(0.25))
    config = model.get_compile_config()
    assert config["optimizer"]["class_name"] == "Adam"
    assert config["optimizer"]["config"]["learning_rate"] == 0.25


def test_trainable_variables_of_an_optimizer(model):
    model.optimizer.build(model.trainable_variables)
    built = keras_private.trainable_variables_of(model.optimizer)
    assert [id(v) for v in built] == [id(v) for v in model.trainable_variables]


def test_learning_rate_variable(model):
    rate = keras_private.learning_rate_variable(model.optimizer)
    np.testing.assert_allclose(rate.numpy(), 0.01)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    assert keras_private.learning_rate_variable(keras.optimizers.SGD(schedule)) is None


def test_all_layers_holds_the_model_and_nested_layers(model):
    outer = keras.Sequential([model])
    found = keras_private.all_layers(outer)
    assert outer in found
    assert model in found
    assert model.layers[-1] in found


@pytest.mark.backend("tensorflow")
def test_distribution_strategy_of_a_model(model):
    import tensorflow as tf

    assert keras_private.distribution_strategy(model) is None
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        inputs = keras.Input((3,))
        other = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    assert keras_private.distribution_strategy(other) is strategy


def test_symbolic_build_makes_all_variables():
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("adam", loss="mse")
    keras_private.symbolic_build(model, data_batch=(X, Y, None))
    assert [tuple(v.shape) for v in model.weights] == [(3, 2), (2,)]
    assert len(model.optimizer.variables) == 6


def test_every_loss_reduces_by_the_function_that_is_replaced():
    """Inside the context, in the thread that entered it, and not after."""
    loss = keras.losses.MeanSquaredError()
    reduced = []

    def reduce(keras_reduction, values, sample_weight, mask, reduction, dtype):
        reduced.append((tuple(values.shape), sample_weight, mask, reduction, dtype))
        return keras_reduction(values, sample_weight, mask, reduction, dtype) + 10

    def plain_in_another_thread():
        thread = threading.Thread(target=lambda: other.append(float(loss(Y, 0 * Y))))
        thread.start()
        thread.join()

    other = []
    with keras_private.ReducingLosses(reduce):
        assert float(loss(Y, 0 * Y)) == 11
        plain_in_another_thread()
    assert other == [1]
    assert reduced == [((4,), None, None, "sum_over_batch_size", "float32")]
    assert float(loss(Y, 0 * Y)) == 1
    assert keras_loss.reduce_weighted_values is keras_private.ReducingLosses._keras_reduction


def test_squaring_losses_holds_for_the_thread_that_entered_it():
    loss, l2 = keras.losses.MeanSquaredError(), keras.regularizers.L2(0.5)
    squared, other = [], []

    def square(x):
        squared.append(tuple(x.shape))
        return x * x + 10

    def plain_in_another_thread():
        thread = threading.Thread(target=lambda: other.append(float(loss(Y, 0 * Y))))
        thread.start()
        thread.join()

    with keras_private.SquaringLosses(square):
        assert float(loss(Y, 0 * Y)) == 11
        assert float(l2(keras.ops.ones((2, 3)))) == 33
        assert float(keras.losses.MeanAbsoluteError()(Y, 0 * Y)) == 1
        plain_in_another_thread()
    assert (squared, other) == ([(4, 1), (2, 3)], [1])
    assert float(loss(Y, 0 * Y)) == 1
    for module in keras_private.SquaringLosses._modules:
        assert module.ops is keras_private.SquaringLosses._keras_ops


@pytest.mark.backend("tensorflow")
def test_computing_moments_takes_the_place_of_keras_own():
    calls = []

    def moments(x, axes, keepdims):
        calls.append((tuple(x.shape), keepdims))
        return keras.ops.full((2, 1), 7.0), keras.ops.full((2, 1), 9.0)

    x = keras.ops.ones((2, 3))
    before = keras.ops.moments(x, axes=[1], keepdims=True)
    with keras_private.ComputingMoments(moments):
        mean, variance = keras.ops.moments(x, axes=[1], keepdims=True)
        keras.layers.LayerNormalization()(x)
    assert calls == [((2, 3), True)] * 2
    assert (float(mean[0, 0]), float(variance[0, 0])) == (7.0, 9.0)
    after = keras.ops.moments(x, axes=[1], keepdims=True)
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.backend("tensorflow")
def test_resizing_images_takes_the_place_of_keras_own():
    calls = []

    def resize(keras_resize, images, *args, **kwargs):
        calls.append(tuple(images.shape))
        return keras_resize(images, *args, **kwargs)

    x = keras.ops.ones((1, 2, 2, 1))
    with keras_private.ResizingImages(resize):
        keras.layers.Resizing(3, 3)(x)
        keras.layers.UpSampling2D(2, interpolation="bilinear")(x)
        keras.ops.image.resize(x, (3, 3))
    assert calls == [(1, 2, 2, 1)] * 3
    keras.ops.image.resize(x, (3, 3))
    assert len(calls) == 3


def test_apply_mask_merges_mask_and_sample_weight():
    mask = keras.ops.convert_to_tensor([True, False, True, True])
    weights = keras.ops.convert_to_tensor([1.0, 2.0, 3.0, 4.0])
    merged = keras_private.apply_mask(weights, mask, "float32", "mean_with_sample_weight")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(merged), [1, 0, 3, 4])


def test_metrics_that_need_the_outputs_are_known():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    assert not keras_private.measures_outputs(model)
    for metrics in ("metrics", "weighted_metrics"):
        model.compile("sgd", loss="mse", **{metrics: ["mae"]})
        assert keras_private.measures_outputs(model)

    class Own(keras.Sequential):
        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            return {}

    model = Own([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    assert keras_private.measures_outputs(model)


def test_embedding_layers_look_rows_up_by_a_function_of_ones_own():
    layer = keras.layers.Embedding(5, 2)
    layer.build()
    reversible = keras.layers.ReversibleEmbedding(5, 2)
    reversible.build()
    indices, asked = keras.ops.convert_to_tensor([1, 3]), []

    def gather(table, given):
        asked.append(table)
        assert given.shape == (2,)
        return keras.ops.ones((2, 2)) if table is layer._embeddings else None

    with keras_private.GatheringRows(gather):
        found = [keras.ops.convert_to_numpy(each(indices)) for each in (layer, reversible)]
    assert [id(table) for table in asked] == [
        id(keras_private.embedding_table(each)) for each in (layer, reversible)
    ]
    np.testing.assert_array_equal(found[0], np.ones((2, 2)))
    np.testing.assert_array_equal(found[1], reversible.embeddings.numpy()[[1, 3]])
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(layer(indices)), layer.embeddings.numpy()[[1, 3]]
    )
    assert keras_private.keras_embedding.ops is keras_private.GatheringRows._keras_ops
    assert keras_private.embedding_table(keras.layers.Embedding(5, 2)) is None


@pytest.mark.parametrize("clip", [{}, {"clipnorm": 0.1}, {"global_clipnorm": 0.1}])
def test_the_parts_of_an_update_are_what_keras_applies(clip):
    def start():
        values = np.arange(3.0, dtype="float32")
        optimizer = keras.optimizers.SGD(0.5, **clip)
        variables = [keras.Variable(values), keras.Variable(-values), keras.Variable(values)]
        variables[1].constraint = keras.constraints.NonNeg()
        optimizer.build(variables)
        return optimizer, variables

    gradients = [keras.ops.ones((3,)), keras.ops.ones((3,)) * 2, None]
    optimizer, expected = start()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply(gradients, expected)
    parts, variables = start()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        present, given = keras_private.present_gradients(parts, gradients, variables)
    clipped = keras_private.clip_gradients(parts, present)
    keras_private.update_dense(parts, list(zip(clipped, given, strict=True)))
    for a, b in zip(variables, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    assert int(parts.iterations) == int(optimizer.iterations) == 1


def test_classes_of_keras_are_told_from_others():
    class Own(keras.optimizers.SGD):
        pass

    kind = keras.optimizers.SGD
    assert keras_private.is_of_keras(kind(), kind)
    assert not keras_private.is_of_keras(Own(), kind)
    assert not keras_private.is_of_keras(keras.optimizers.Adam(), kind)


def test_in_stateless_scope():
    assert not keras_private.in_stateless_scope()
    with keras.StatelessScope():
        assert keras_private.in_stateless_scope()


def test_eager_build_makes_all_variables_and_leaves_no_trace():
    """Seeds, moving statistics and metrics are as if the model had not been called."""
    model = keras.Sequential(
        [keras.layers.Dropout(0.5), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.compile("adam", loss="mse", metrics=["mae"])
    batch = keras.ops.ones((4, 3)), keras.ops.ones((4, 1))
    keras_private.eager_build(model, batch)
    assert model.built
    assert model.optimizer.built
    seeds = [v.numpy().copy() for v in model.layers[0].variables]
    moving = model.layers[1].moving_mean.numpy()
    np.testing.assert_array_equal(moving, 0 * moving)
    count = len(model.metrics_variables)
    assert count > 1
    model.evaluate(*batch, verbose=0)
    assert len(model.metrics_variables) == count
    keras_private.eager_build(model, batch)
    for a, v in zip(seeds, model.layers[0].variables):
        np.testing.assert_array_equal(a, v.numpy())


def test_variable_layout(model):
    assert keras_private.variable_layout(model.trainable_variables[0]) is None


@pytest.mark.parametrize(
    ("read", "optimizer"),
    [
        (keras_private.second_moment, keras.optimizers.Adam()),
        (keras_private.second_moment, keras.optimizers.AdamW()),
        (keras_private.second_moment, keras.optimizers.Nadam()),
        (keras_private.second_moment, keras.optimizers.Lamb()),
        (keras_private.second_moment, keras.optimizers.RMSprop()),
        (keras_private.largest_second_moment, keras.optimizers.Adam(amsgrad=True)),
        (keras_private.mean_gradient, keras.optimizers.RMSprop(centered=True)),
        (keras_private.sum_of_squares, keras.optimizers.Adagrad()),
        (keras_private.running_squares, keras.optimizers.Adadelta()),
        (keras_private.infinity_norm, keras.optimizers.Adamax()),
    ],
    ids=lambda value: getattr(value, "__name__", getattr(value, "name", "")),
)
def test_what_optimizers_keep_for_a_variable(read, optimizer, model):
    """Each is shaped like its variable, and changes in a step."""
    variables = model.trainable_variables
    optimizer.build(variables)
    before = [slot(read, optimizer, v) for v in variables]
    assert [b.shape[1:] for b in before] == [tuple(v.shape) for v in variables]
    optimizer.apply([keras.ops.full(v.shape, 0.5) for v in variables])
    for b, v in zip(before, variables):
        assert np.all(slot(read, optimizer, v) != b)


def slot(read, optimizer, variable):
    value = read(optimizer, variable)
    values = value if isinstance(value, tuple) else (value,)
    return np.stack([keras.ops.convert_to_numpy(v).copy() for v in values])


OPTIMIZERS = {
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {},
    "Adam": {"amsgrad": True},
    "AdamW": {"amsgrad": True},
    "Adamax": {},
    "Ftrl": {},
    "Lamb": {},
    "Lion": {},
    "Muon": {},
    "Nadam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "SGD": {"momentum": 0.9},
    "ScheduleFreeAdamW": {},
}


def test_every_keras_optimizer_is_among_those_that_the_guards_look_at():
    classes = {
        name
        for name, value in vars(keras.optimizers).items()
        if isinstance(value, type) and issubclass(value, keras.optimizers.Optimizer)
    }
    assert classes - {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"} == set(OPTIMIZERS)


@pytest.mark.parametrize("use_ema", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_and_moving_averages_are_all_that_an_optimizer_keeps(name, use_ema, model):
    """Beside scalars for all variables; and each of them is of the variable it is asked for."""
    optimizer = getattr(keras.optimizers, name)(use_ema=use_ema, **OPTIMIZERS[name])
    variables = model.trainable_variables
    optimizer.build(variables)
    of_variables = [list(keras_private.slots(optimizer, v)) for v in variables]
    if use_ema:
        averages = [keras_private.moving_average(optimizer, v) for v in variables]
        assert [a.shape for a in averages] == [v.shape for v in variables]
        of_variables.append(averages)
    else:
        assert keras_private.moving_average(optimizer, variables[0]) is None
    found = [id(v) for held in of_variables for v in held]
    assert len(found) == len(set(found))
    scalars = {id(optimizer.iterations), id(optimizer.learning_rate)}
    scalars |= {id(v) for v in optimizer.variables if len(v.shape) == 0}
    assert set(found) | scalars == {id(v) for v in optimizer.variables}


@pytest.mark.multi_optimizer
def test_slots_inside_a_multi_optimizer(model):
    dense = model.layers[-1]
    first, second = keras.optimizers.Adam(), keras.optimizers.SGD(momentum=0.9, use_ema=True)
    optimizer = keras.optimizers.MultiOptimizer(lambda v: first if v is dense.kernel else second)
    optimizer.build(model.trainable_variables)
    for read in (keras_private.slots, keras_private.moving_average):
        assert read(optimizer, dense.kernel) == read(first, dense.kernel)
        assert read(optimizer, dense.bias) == read(second, dense.bias)
    assert keras_private.optimizer_of(optimizer, dense.bias) is second
    assert keras_private.optimizer_of(second, dense.bias) is second
    assert keras_private.is_trained_by(second, dense.bias)
    assert not keras_private.is_trained_by(second, dense.kernel)
    assert [keras_private.variable_index(optimizer, v) for v in model.trainable_variables] == [0, 1]
    assert keras_private.trainable_variables_of(optimizer) == model.trainable_variables


def test_keras_saveables_on_a_model_are_saved_with_its_weights(model, tmp_path):
    class Count(keras_private.KerasSaveable):
        value = 3.0

        def _obj_type(self):
            return "Loss"

        def save_own_variables(self, store):
            store["value"] = np.array(self.value)

        def load_own_variables(self, store):
            self.value = float(np.array(store["value"]))

    model.count = Count()
    model.save_weights(tmp_path / "model.weights.h5")
    model.count.value = 4.0
    model.load_weights(tmp_path / "model.weights.h5")
    assert model.count.value == 3


@pytest.mark.parametrize("wrapped", [False, True])
def test_learning_rate_schedule_is_the_object_behind_the_rate(wrapped):
    def wrap(optimizer):
        return keras.optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer

    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    assert keras_private.learning_rate_schedule(wrap(keras.optimizers.SGD(schedule))) is schedule
    assert keras_private.learning_rate_schedule(wrap(keras.optimizers.SGD(0.1))) is None


def test_loss_arguments_are_those_of_the_function():
    loss = keras.losses.Huber(delta=0.5)
    assert keras_private.loss_arguments(loss)["delta"] == 0.5
    keras_private.loss_arguments(loss)["delta"] = 2.0
    assert float(loss([[10.0]], [[0.0]])) == pytest.approx(2.0 * (10.0 - 1.0))


def test_the_generator_of_what_has_no_seed():
    keras.utils.set_random_seed(0)
    assert keras_private.unseeded_generator() is None
    first = keras.ops.convert_to_numpy(keras.random.uniform((2,)))
    generator = keras_private.unseeded_generator()
    assert isinstance(generator, keras.random.SeedGenerator)
    keras_private.set_unseeded_generator(None)
    keras.utils.set_random_seed(0)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras.random.uniform((2,))), first)
    keras_private.set_unseeded_generator(generator)
    assert keras_private.unseeded_generator() is generator


def test_a_read_of_a_variable_asks_the_scope():
    """Where `NotedReads` hears of it; the same variable read outside of a step is no read."""
    variable, other = keras.Variable(1.0), keras.Variable(2.0)
    reads = keras_private.NotedReads(variable)
    with reads:
        variable + 1
        with keras_private.OverlayScope([(other, keras.ops.ones(()))]):
            other + 1
            assert not reads.noted
            variable + 1
            assert reads.noted
    assert not keras_private.NotedReads.of


@pytest.mark.parametrize(
    ("optimizer", "hold_the_rate"),
    [
        (lambda rate: keras.optimizers.SGD(rate, momentum=0.9), True),
        (lambda rate: keras.optimizers.RMSprop(rate, momentum=0.9), True),
        (keras.optimizers.SGD, False),
        (keras.optimizers.Adam, False),
        (keras.optimizers.Lion, False),
        (keras.optimizers.Muon, False),
    ],
)
def test_velocities_are_what_holds_the_learning_rate(optimizer, hold_the_rate):
    """They are 3 times as large after a step at 3 times the rate, and no other slot is."""
    slots = []
    for rate in (0.01, 0.03):
        made, variable = optimizer(rate), keras.Variable(np.ones((2, 2), "float32"))
        made.build([variable])
        made.apply([keras.ops.ones((2, 2))], [variable])
        held = {v.path for v in keras_private.velocities(made)}
        assert bool(held) is hold_the_rate
        slots.append([(v.path in held, v.numpy()) for v in made.variables if len(v.shape)])
    for (holds, once), (_, thrice) in zip(*slots, strict=True):
        np.testing.assert_allclose(thrice, (3 if holds else 1) * once, rtol=1e-5)


def test_promotion_casts_float64_down_until_it_is_told_not_to(float64):
    """The dictionary is the one that Keras looks up, at every call: nothing is cached."""
    assert keras.backend.result_type("float64", "float32") == "float64"
    assert keras.backend.result_type("float64", "complex64") == "complex128"
    assert keras_private.promotes_to_float64()
    # As Keras has it on JAX and PyTorch; the fixture puts back what was there.
    keras_private.BIT64_TO_BIT32_DTYPE["float64"] = "float32"
    assert keras.backend.result_type("float64", "float32") == "float32"
    assert not keras_private.promotes_to_float64()
    keras_private.promote_to_float64()
    assert keras.backend.result_type("float64", "float32") == "float64"


def test_what_a_scope_does_with_assignments_to_variables_of_its_mapping():
    mapped, other = keras.Variable([1.0]), keras.Variable([2.0])
    with keras_private.OverlayScope([(mapped, keras.ops.ones(1))]) as scope:
        scope.on_assigning = lambda place, value: value + 10.0 + place
        scope.keeps_assigned = False
        mapped.assign([5.0])
        other.assign([6.0])
        assert float(mapped.value[0]) == 15
        assert float(other.value[0]) == 6
    assert [v is other for v, _ in scope.updates] == [True]
    scope.keeps_assigned = True
    assert [float(value[0]) for _, value in scope.updates] == [15, 6]


def added(layer):
    return [float(keras.ops.convert_to_numpy(loss)) for loss in layer.losses]


def test_losses_that_a_layer_adds_stay_in_the_scope_that_it_was_called_in():
    """Of each scope those of its own last call, for the layer and for what it is a part of; outside
    of them as ever. Keras' own methods take part: they are the ones that call and are called."""
    layer = keras.layers.ActivityRegularization(l1=1.0)
    model = keras.Sequential([keras.Input((1,)), layer])

    def call(value):
        return model(keras.ops.full((1, 1), value))

    call(5.0)
    with keras_private.OverlayScope():
        assert added(model) == []
        call(2.0)
        call(1.0)
        with keras_private.OverlayScope():
            call(3.0)
            assert added(model) == added(layer) == [3]
        assert added(model) == added(layer) == [1]
    assert added(model) == added(layer) == [5]
    with keras.StatelessScope(collect_losses=True):
        call(2.0)
        with keras_private.OverlayScope():
            call(3.0)
        assert added(model) == [2]
        with pytest.raises(ValueError, match="add_loss"):
            layer.add_loss("no tensor")
    assert {"add_loss", "_get_own_losses", "_clear_losses"} <= set(vars(keras.Layer))


def test_added_losses_are_those_of_the_present_scope():
    layer = keras.layers.ActivityRegularization(l1=1.0)
    model = keras.Sequential([keras.Input((1,)), layer])
    assert keras_private.present_overlay() is None
    with keras_private.OverlayScope() as scope:
        assert keras_private.present_overlay() is scope
        model(keras.ops.full((1, 1), 2.0))
        layer.add_loss(keras.ops.full((), 3.0))
        assert [(of, float(loss)) for of, loss in scope.added_losses] == [(layer, 2), (layer, 3)]
        assert added(model) == [2, 3]


def test_losses_of_freed_scopes_are_no_ones():
    """Keras knows a loss by its id, which the next tensor may have."""
    first, second = (keras.layers.ActivityRegularization(l1=1.0) for _ in range(2))
    for _ in range(200):
        for layer, other in ((first, second), (second, first)):
            with keras_private.OverlayScope():
                layer(keras.ops.ones((1, 1)))
                assert len(layer.losses) == 1
                assert len(other.losses) == 0


def test_held_value_is_what_a_variable_holds():
    variable = keras.Variable(np.ones(2, "float32"))
    assert keras_private.held_value(variable) is variable.value


def test_a_draw_assigns_the_state_of_a_seed_generator():
    generator = keras.random.SeedGenerator(0)
    assert keras_private.is_seed_state(generator.state)
    assert not keras_private.is_seed_state(keras.Variable(0, dtype="int32", trainable=False))
    with keras_private.OverlayScope() as scope:
        keras.random.normal((2,), seed=generator)
    assert [variable for variable, _ in scope.updates] == [generator.state]


@pytest.mark.parametrize("epochs", [1, 2])
def test_running_fit_is_the_one_that_calls(epochs):
    found = []

    class Asks(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            found.append(keras_private.running_fit())

    asks = Asks()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=epochs, verbose=0, callbacks=[asks])
    assert len(found) == epochs
    for callbacks, iterator in found:
        assert any(c is asks for c in callbacks.callbacks)
        assert callable(iterator.catch_stop_iteration)
    assert keras_private.running_fit() is None


# ------------------------------------------------------------------- the data of a running fit


class Again(keras.callbacks.Callback):
    """Reads the batches of an epoch once more at its end."""

    def on_train_begin(self, logs=None):
        self.epochs, self.can = [], keras_private.can_be_read_again(keras_private.running_fit()[1])

    def on_epoch_end(self, epoch, logs=None):
        _, iterator = keras_private.running_fit()
        batches = [b if isinstance(b, tuple) else tuple(b) for b in self.read(iterator)]
        self.epochs.append([np.array(keras.ops.convert_to_numpy(b[0])) for b in batches])

    def read(self, iterator):
        return keras_private.batches_again(iterator)


class InBatches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return X[2 * i : 2 * i + 2] + i, Y[2 * i : 2 * i + 2]


def test_arrays_are_read_again(model):
    again = Again()
    x = np.arange(15.0, dtype="float32").reshape(5, 3)
    model.fit(x, x[:, :1], batch_size=2, epochs=2, callbacks=[again], verbose=0)
    assert again.can
    for batches in again.epochs:
        assert [len(b) for b in batches] == [2, 2, 1]
        np.testing.assert_array_equal(np.sort(np.concatenate(batches), axis=0), x)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_py_dataset_is_read_again(model, workers):
    again = Again()
    data = InBatches(workers=workers)
    model.fit(data, epochs=2, callbacks=[again], verbose=0)
    assert again.can
    for batches in again.epochs:
        np.testing.assert_array_equal(batches, [X[:2], X[2:] + 1])


@pytest.mark.backend("torch")
def test_a_data_loader_is_read_again_and_its_generators_are_found(model):
    import torch

    generator = torch.Generator()
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    loader = torch.utils.data.DataLoader(data, 2, shuffle=True, generator=generator)
    again = Again()
    model.fit(loader, epochs=1, callbacks=[again], verbose=0)
    assert [len(b) for b in again.epochs[0]] == [2, 2]
    again.read = lambda iterator: found.extend(keras_private.own_generators(iterator)) or []
    found = []
    model.fit(loader, epochs=1, callbacks=[again], verbose=0)
    assert found == [generator]


def test_a_generator_cannot_be_read_again(model):
    again = Again()
    again.read = lambda iterator: []
    data = ((X, Y) for _ in range(2))
    model.fit(data, steps_per_epoch=2, epochs=1, callbacks=[again], verbose=0)
    assert not again.can


def test_a_single_callback_is_called_in_order():
    callbacks = keras.callbacks.CallbackList(keras.callbacks.Callback())
    assert hasattr(callbacks, "_async_train")
    keras_private.call_in_order(callbacks)
    assert callbacks._async_train is False


def test_validation_is_told_from_other_calls_of_evaluate(model):
    class Evaluates(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.evaluate(X, Y, verbose=0)

    evaluate, told = model.evaluate, []

    def telling(*args, **kwargs):
        told.append(keras_private.is_validation(kwargs))
        return evaluate(*args, **kwargs)

    model.evaluate = telling
    model.fit(X, Y, validation_data=(X, Y), callbacks=[Evaluates()], verbose=0)
    assert told == [True, False]


@pytest.mark.backend("jax")
def test_functions_of_steps_are_made_by_the_method_that_is_overridden(model):
    """`microbatch_size="auto"` puts the step that it plans in the place of the compiled one."""
    parameters = inspect.signature(keras_private.Trainer._make_function).parameters
    assert list(parameters) == ["self", "step_function", "concatenate_outputs"]
    given = []
    model._make_function = given.append
    model.make_train_function()
    assert given[0].__wrapped__ == model.train_step
    model.run_eagerly = True
    model.make_train_function(force=True)
    assert given[1] == model.train_step


def test_computing_again_takes_the_place_of_keras_own():
    calls = []

    def again(function):
        calls.append(function)
        return function

    with keras_private.ComputingAgain(again):
        assert keras.remat(abs) is abs
        with keras.RematScope(mode="full"):
            keras.layers.Dense(1)(keras.ops.ones((1, 2)))
    assert len(calls) == 2
    with keras_private.without_gradients():
        assert keras.remat(abs) is abs
    assert keras.remat(abs) is not abs


def test_layers_are_called_in_the_mode_of_another_place():
    modes, contexts = [], []

    class Mode(keras.layers.Layer):
        def call(self, x, training=None):
            modes.append(training)
            return x

    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.mode = Mode()

        def call(self, x, training=None):
            contexts.append(keras_private.calls_as_here())
            return self.mode(x)

    outer = Outer()
    outer(keras.ops.ones((1, 1)), training=True)
    with contexts[-1]():
        outer.mode(keras.ops.ones((1, 1)))
    outer.mode(keras.ops.ones((1, 1)))
    assert modes[-3:-1] == [True, True]
    assert not modes[-1]


@pytest.mark.backend("tensorflow")
def test_writing_takes_the_place_of_keras_own():
    entered = []

    @contextlib.contextmanager
    def context():
        entered.append(True)
        yield

    variable = keras.Variable([1.0])
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.1)
    optimizer.build([variable])
    with keras_private.Writing(context):
        variable.assign([2.0])
        assert len(entered) == 1
        optimizer.apply([keras.ops.zeros((1,))], [variable])
        assert len(entered) >= 3  # the decay, and the count of the steps
    count = len(entered)
    variable.assign([3.0])
    assert len(entered) == count
