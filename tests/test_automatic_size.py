"""`microbatch_size="auto"`: the largest size that fits, found without a loss."""

import copy

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.replicas import two_devices

BACKEND = keras.backend.backend()
compiles = pytest.mark.backend("jax", "tensorflow")
rng = np.random.default_rng(0)
# A sample has 1 MB of activations in the first layer: TensorFlow counts no small blocks on a CPU.
X = rng.normal(size=(96, 1024, 2)).astype("float32")
Y = rng.integers(0, 4, 96)
# By the count of the backend 16 samples at a time fit, and 32 do not.
LIMIT = {"jax": 70_000_000, "tensorflow": 55_000_000, "torch": 70_000_000}[BACKEND]
FAR_TOO_LOW = 1000


class Hungry(keras.layers.Layer):
    """Asks for a terabyte, or more, where it is given more samples than `fed` in training."""

    fed = 16

    def call(self, x, training=False):
        return self.eat(x) if training else x

    def eat(self, x):
        if BACKEND == "tensorflow":  # whose allocator waits for 10 seconds before it fails
            return x + ops.cast(memory_error_if(ops.shape(x)[0] > self.fed), x.dtype)
        side = ops.shape(x)[0] // (self.fed + 1) * 60_000 + 1
        much = ops.sin(x[0, 0] * ops.arange(side)[:, None] + ops.arange(side * 60))
        return x + 0 * ops.stop_gradient(ops.sum(ops.sort(much)))

    def compute_output_shape(self, input_shape):
        return input_shape


def memory_error_if(condition):
    """A zero, or an error of the kind that TensorFlow raises where memory runs out."""
    import tensorflow as tf

    def fail(condition):
        if condition:
            raise MemoryError
        return np.float32(0)

    return tf.ensure_shape(tf.numpy_function(fail, [condition], tf.float32), ())


def make_model(optimizer="adam", cls=kc.Model, hungry=False, seed=None, **options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, 2))
    h = keras.layers.Dense(256, activation="relu")(inputs)
    h = keras.layers.GlobalAveragePooling1D()(h)
    h = keras.layers.Dropout(0.5, seed=seed)(keras.layers.BatchNormalization()(h))
    h = Hungry()(h) if hungry else h
    model = cls(inputs, keras.layers.Dense(4)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"], **options)
    return model


def trained(model, samples=64, batch_size=32, epochs=2, length=1024, shuffle=False):
    """The logs of a training. On PyTorch a layer without a seed draws otherwise in a second one."""
    keras.utils.set_random_seed(1)
    x, y = X[:samples, :length], Y[:samples]
    options = {"batch_size": batch_size, "epochs": epochs, "verbose": 0}
    return model.fit(x, y, shuffle=shuffle, **options).history


def state_of(model):
    """All that a step changes, as arrays."""
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


def assert_same_state(model, other):
    for a, b in zip(state_of(model), state_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def without_size(logs):
    return {name: value for name, value in logs.items() if name != "microbatch_size"}


OPTIMIZERS = {"adam": lambda: "adam", "heun": lambda: kc.optimizers.Heun("adam")}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weights_are_those_of_a_run_that_named_the_size(optimizer):
    make = OPTIMIZERS[optimizer]
    model = make_model(make(), microbatch_size="auto", memory_limit=LIMIT)
    logs = trained(model, batch_size=64, shuffle=True)
    size = 16 if optimizer == "adam" else model.microbatch_size
    assert logs["microbatch_size"] == [size, size]
    assert model.microbatch_size == size < 64

    named = make_model(make(), microbatch_size=size)
    assert trained(named, batch_size=64, shuffle=True) == without_size(logs)
    assert_same_state(model, named)


def test_a_batch_that_fits_is_computed_at_once():
    model = make_model(microbatch_size="auto")
    logs = trained(model, samples=24, batch_size=16, epochs=1)
    assert model.microbatch_size == 16
    named = make_model(microbatch_size=16)
    assert trained(named, samples=24, batch_size=16, epochs=1) == without_size(logs)
    assert_same_state(model, named)
    trained(model, samples=20, batch_size=20, epochs=1)  # as long as none had to be halved
    assert model.microbatch_size == 20


class Traced(kc.Model):
    """Notes the size of the micro-batches whenever its step is traced."""

    sizes = ()

    def multi_gradient_step(self, x, y, sample_weight):
        Traced.sizes = (*Traced.sizes, self.microbatch_size)
        return super().multi_gradient_step(x, y, sample_weight)


@compiles
def test_each_size_is_compiled_once():
    compiled = count_compilations()
    trained(make_model(microbatch_size=16), batch_size=64)
    of_one = compiled()
    Traced.sizes = ()
    model = make_model(cls=Traced, microbatch_size="auto", memory_limit=LIMIT)
    for _ in range(2):
        trained(model, batch_size=64)
        assert Traced.sizes == (64, 32, 16)
    assert compiled() - of_one <= of_one + 2


def count_compilations():
    """A function that gives the number of programs that XLA has compiled from now on, on JAX."""
    count = [0]
    if BACKEND == "jax":
        import jax

        def listen(name, duration, **_):
            count[0] += name.endswith("backend_compile_duration")

        jax.monitoring.register_event_duration_secs_listener(listen)
    return lambda: count[0]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("options", [{}, {"memory_limit": FAR_TOO_LOW}], ids=["real", "limit"])
def test_where_no_sample_fits_nothing_is_lost(options, monkeypatch):
    monkeypatch.setattr(Hungry, "fed", 0 if not options else 16)
    model = make_model(hungry=True, seed=1, microbatch_size="auto", **options)
    model.optimizer.build(model.trainable_variables)
    before = state_of(model)
    with pytest.raises(MemoryError, match="even with one sample at a time"):
        trained(model, samples=4, batch_size=4)
    for a, b in zip(state_of(model)[: len(before)], before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.microbatch_size == "auto"

    monkeypatch.undo()
    model.memory_limit = None
    logs = trained(model, samples=4, batch_size=4, epochs=1)
    named = make_model(hungry=True, seed=1, microbatch_size=4)
    assert trained(named, samples=4, batch_size=4, epochs=1) == without_size(logs)
    assert_same_state(model, named)


class Counting(kc.Model):
    """Has changed its state before memory runs out."""

    def build(self, input_shape):
        self.count = self.add_weight(initializer="zeros", trainable=False)
        super().build(input_shape)

    def multi_gradient_step(self, x, y, sample_weight):
        self.count.assign_add(1.0)

        def loss_function(x, y):
            return self.compute_loss(x, y, self(x, training=True))

        variables = self.trainable_variables
        for _ in range(2):
            loss, gradients = self.value_and_grad(loss_function, variables, batch=(x, y))
            self.apply_gradients(gradients, variables)
        return {"loss": loss}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("cls", [kc.Model, Counting])
@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=["compiled", "eager"])
def test_memory_that_runs_out_is_no_loss(cls, options):
    model = make_model(cls=cls, hungry=True, microbatch_size="auto", **options)
    logs = trained(model, samples=42, epochs=1)
    assert model.microbatch_size == 16
    named = make_model(cls=cls, hungry=True, microbatch_size=16, **options)
    assert trained(named, samples=42, epochs=1) == without_size(logs)
    assert_same_state(model, named)


@pytest.mark.backend("jax")
def test_a_plan_that_was_too_low_loses_no_state(monkeypatch):
    from keras_cool.backend.jax import planned_step

    monkeypatch.setattr(planned_step, "_planned_bytes", lambda compiled: 0)
    model = make_model(hungry=True, microbatch_size="auto")
    logs = trained(model, samples=42, epochs=1)
    assert model.microbatch_size == 16
    named = make_model(hungry=True, microbatch_size=16)
    assert trained(named, samples=42, epochs=1) == without_size(logs)
    assert_same_state(model, named)


def test_longer_sequences_are_computed_with_a_smaller_size():
    model = make_model(microbatch_size="auto", memory_limit=LIMIT)
    trained(model, batch_size=64, epochs=1, length=512)
    size = model.microbatch_size
    assert size > 16
    trained(model, batch_size=64, epochs=1)
    assert model.microbatch_size == 16
    named = make_model(microbatch_size=size)
    trained(named, batch_size=64, epochs=1, length=512)
    named.microbatch_size = 16
    trained(named, batch_size=64, epochs=1)
    assert_same_state(model, named)
    trained(model, samples=96, batch_size=96, epochs=1)
    assert model.microbatch_size == 16  # which does not grow again


def test_train_on_batch():
    model = make_model(microbatch_size="auto", memory_limit=LIMIT)
    logs = [model.train_on_batch(X[:64], Y[:64], return_dict=True) for _ in range(2)]
    assert [entry["microbatch_size"] for entry in logs] == [16, 16]
    named = make_model(microbatch_size=16)
    for entry in logs:
        assert named.train_on_batch(X[:64], Y[:64], return_dict=True) == without_size(entry)
    assert_same_state(model, named)


@compiles
def test_the_size_is_that_of_a_device():
    with two_devices():
        model = make_model(hungry=True, microbatch_size="auto")
        trained(model, batch_size=64, epochs=1)
        # Of the 32 that a device has. A layer sees the samples of both on JAX.
        assert model.microbatch_size == (8 if BACKEND == "jax" else 16)
        named = make_model(hungry=True, microbatch_size=model.microbatch_size)
        trained(named, batch_size=64, epochs=1)
    for a, b in zip(model.get_weights(), named.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.backend("tensorflow")
@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 2}])
def test_other_functions_of_tensorflow(options):
    model = make_model(microbatch_size="auto", memory_limit=LIMIT * 2 // 3, **options)
    logs = trained(model, batch_size=32, epochs=1)
    assert model.microbatch_size <= 16
    named = make_model(microbatch_size=model.microbatch_size, **options)
    assert trained(named, batch_size=32, epochs=1) == without_size(logs)
    assert_same_state(model, named)


def test_another_error_is_raised_as_it_is():
    model = make_model(microbatch_size="auto")
    before = model.get_weights()
    with pytest.raises(Exception, match="2|3|shape|dimension"):
        model.fit(X[:8, :, :1], Y[:8], batch_size=8, verbose=0)
    assert model.microbatch_size == "auto"
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_saved_and_loaded_it_looks_again(tmp_path):
    model = make_model(seed=1, microbatch_size="auto", memory_limit=LIMIT)
    trained(model, batch_size=64, epochs=1)
    assert model.microbatch_size == 16
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.microbatch_size == "auto"
    assert loaded.memory_limit == LIMIT
    trained(loaded, batch_size=64, epochs=1)
    trained(model, batch_size=64, epochs=1)
    assert loaded.microbatch_size == 16
    assert_same_state(loaded, model)


def test_an_injected_model_and_its_copies():
    model = kc.inject(make_model(cls=keras.Model))
    model.microbatch_size = "auto"
    model.memory_limit = LIMIT
    trained(model, batch_size=64, epochs=1)
    assert model.microbatch_size == 16
    copied = copy.deepcopy(model)
    assert (copied.microbatch_size, copied.memory_limit) == ("auto", LIMIT)
    model.microbatch_size = 8
    assert (model.microbatch_size, model.memory_limit) == (8, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"microbatch_size": "automatic"}, "'automatic'.*\"auto\""),
        ({"memory_limit": 10}, '`microbatch_size="auto"`'),
        ({"memory_limit": 10, "microbatch_size": 16}, '`microbatch_size="auto"`'),
        ({"memory_limit": 0, "microbatch_size": "auto"}, "positive integer.*given 0"),
        ({"memory_limit": "8GB", "microbatch_size": "auto"}, "positive integer.*'8GB'"),
        ({"memory_limit": True, "microbatch_size": "auto"}, "positive integer.*True"),
    ],
)
def test_what_is_no_size_or_limit(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


@pytest.mark.backend("jax")
def test_a_limit_needs_a_compiled_step_on_jax():
    model = make_model(run_eagerly=True, microbatch_size="auto", memory_limit=LIMIT)
    with pytest.raises(ValueError, match="does not compile it"):
        trained(model)


def test_a_batch_too_large_to_evaluate_or_predict_says_what_helps():
    class HungryAfterwards(Hungry):
        def call(self, x, training=False):
            return x if training else self.eat(x)

    def make():
        inputs = keras.Input((2,))
        model = kc.Model(inputs, keras.layers.Dense(1)(HungryAfterwards()(inputs)))
        model.compile("sgd", loss="mse")
        return model

    model, x, y = make(), np.ones((32, 2)), np.ones((32, 1))
    for run in (
        lambda: model.evaluate(x, y, batch_size=32, verbose=0),
        lambda: model.predict(x, batch_size=32, verbose=0),
        lambda: model.fit(x, y, epochs=1, validation_data=(x, y), verbose=0),
    ):
        with pytest.raises(Exception) as info:  # noqa: PT011  # the backend's own
            run()
        (note,) = info.value.__notes__
        assert "Give a smaller `batch_size`" in note
        model = make()
    model.fit(x, y, validation_data=(x, y), validation_batch_size=16, verbose=0)


def test_a_batch_too_large_to_train_says_what_helps():
    model = make_model(hungry=True)
    with pytest.raises(Exception) as info:  # noqa: PT011  # the backend's own
        trained(model)
    assert 'microbatch_size="auto"' in info.value.__notes__[0]
