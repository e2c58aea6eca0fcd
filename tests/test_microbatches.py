"""`microbatch_size`: in the step, in steps of one's own, and what else it has to leave alone."""

import copy

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import assert_same_weights
from support.small_net import X, Y, net
from support.training import fit

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)


def large_batch(optimizer="adam", loss="mse", batch_size=48, **options):
    model = net(keras.Model)
    model.compile(optimizer, loss=loss, **options)
    return model, fit(model, X, Y, batch_size=batch_size, epochs=2)


COMPILED = [{}, {"run_eagerly": True}]
if (
    BACKEND != "torch"
):  # whose `jit_compile` is `torch.compile`, and which has no execution of steps
    COMPILED += [{"jit_compile": BACKEND == "tensorflow"}, {"steps_per_execution": 2}]


@pytest.mark.parametrize(
    ("size", "options"),
    [(size, {}) for size in (1, 16, 48, 100)] + [(7, options) for options in COMPILED],
    ids=str,
)
def test_any_size_under_any_compilation(size, options):
    """Also where the micro-batches do not divide the batch, and where they are larger."""
    expected, logs = large_batch(metrics=["mae"])
    model = net()
    model.compile("adam", loss="mse", metrics=["mae"], microbatch_size=size, **options)
    history = fit(model, X, Y, batch_size=48, epochs=2)
    assert_same_weights(model, expected)
    assert history.pop("skipped_steps") == [0, 0]
    assert history == {name: pytest.approx(values, rel=1e-5) for name, values in logs.items()}


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_together_with_accumulate(reduction):
    """Windows of 3 batches of 16, each computed 5 samples at a time."""
    models = []
    for model_class, optimizer, batch_size, options in (
        (keras.Model, lambda sgd: sgd, 48, {}),
        (kc.Model, lambda sgd: kc.optimizers.Accumulate(sgd, 3), 16, {"microbatch_size": 5}),
    ):
        model = net(model_class)
        sgd = keras.optimizers.SGD(0.001, momentum=0.9)
        loss = keras.losses.MeanSquaredError(reduction=reduction)
        model.compile(optimizer(sgd), loss=loss, **options)
        fit(model, X, Y, batch_size=batch_size, epochs=2)
        models.append(model)
    assert_same_weights(models[1], models[0])


def test_injected_and_changed_between_fits():
    expected, _ = large_batch()
    fit(expected, X, Y, batch_size=48, epochs=2)
    model = kc.inject(net(keras.Model))
    model.compile("adam", loss="mse", microbatch_size=16)
    assert model.microbatch_size == 16
    fit(model, X, Y, batch_size=48, epochs=2)
    model.microbatch_size = 10
    fit(model, X, Y, batch_size=48, epochs=2)
    assert_same_weights(model, expected)


class OwnStep(kc.Model):
    """A loss of one's own, what it returns beside the loss, and a metric updated inside it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = keras.metrics.Sum(name="seen")

    def multi_gradient_step(self, x, y, sample_weight):
        def loss_function(x, y):
            y_pred = self(x, training=True)
            self.seen.update_state(ops.ones_like(y))
            error = ops.mean(ops.square(y_pred - y), axis=-1)
            return ops.mean(error), {"predictions": y_pred, "squared": ops.mean(y_pred**2)}

        variables = self.trainable_variables
        (loss, aux), gradients = self.value_and_grad(
            loss_function, variables, has_aux=True, batch=(x, y)
        )
        self.apply_gradients(gradients, variables)
        return {
            "loss": loss,
            "seen": self.seen.result(),
            "order": ops.mean(ops.abs(aux["predictions"] - self.after(x, aux["predictions"]))),
            "difference": aux["squared"] - ops.mean(aux["predictions"] ** 2),
        }

    def after(self, x, predictions):
        """The predictions for `x` once more; here the weights have changed by little."""
        return self(x, training=False)


def test_a_step_of_ones_own():
    expected, _ = large_batch(keras.optimizers.SGD(1e-4))
    model = net(OwnStep)
    model.compile(keras.optimizers.SGD(1e-4), loss="mse", microbatch_size=7)
    logs = fit(model, X, Y, batch_size=48, epochs=2)
    assert_same_weights(model, expected)
    assert logs["seen"] == [120, 120]
    assert np.max(logs["order"]) < 1e-3  # the joined predictions are in the order of the samples
    assert np.max(np.abs(logs["difference"])) < 1e-6


def test_the_gradient_of_something_without_a_batch():
    class Shrinking(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            variables = self.trainable_variables
            loss, gradients = self.value_and_grad(
                lambda: sum(ops.sum(v**2) for v in variables) / 2, variables, batch=()
            )
            self.apply_gradients(gradients, variables)
            return {"loss": loss}

    model = net(Shrinking)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.5), loss="mse", microbatch_size=16)
    model.fit(X[:48], Y[:48], batch_size=48, verbose=0)
    for w, start in zip(model.get_weights(), before):
        np.testing.assert_allclose(w, start / 2, rtol=1e-6)


def test_compute_loss_of_ones_own_with_keras_losses_of_every_reduction():
    class OwnLoss(kc.Model):
        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            summed = keras.losses.MeanSquaredError(reduction="sum")(y, y_pred)
            mean = keras.losses.MeanAbsoluteError()(y, y_pred)
            weighted = keras.losses.Huber(reduction="mean_with_sample_weight")(
                y, y_pred, ops.abs(x[:, 0])
            )
            return summed / 100 + mean + 2 * weighted

    models = [net(OwnLoss), net(OwnLoss)]
    for model, options in zip(models, ({}, {"microbatch_size": 10})):
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), **options)
        fit(model, X, Y, batch_size=48, epochs=2)
    assert_same_weights(models[1], models[0])


def test_micro_batches_have_masks_of_their_own_and_evaluations_the_same():
    """Dropout's seeds advance from micro-batch to micro-batch; each evaluation of a step, of the
    two that are equal here, sees the same."""

    class Equal(kc.optimizers.MultiGradientOptimizer):
        def __init__(self, optimizer, name=None):
            super().__init__(optimizer, name=name)
            self.difference = self.add_variable(shape=(), name="difference")

        def estimate_gradient(self, evaluate, point):
            _, first = evaluate(point)
            _, second = evaluate(point)
            pairs = zip(first, second)
            difference = sum(ops.sum(ops.abs(a - b)) for a, b in pairs)
            self.difference.assign(ops.maximum(self.difference.value, difference))
            return first

    class Noise(keras.layers.Layer):
        """Its loss is a number drawn from a seed."""

        def __init__(self):
            super().__init__()
            self.drawn = keras.metrics.Mean(name="drawn")
            self.squared = keras.metrics.Mean(name="squared")
            self.dropout = keras.layers.Dropout(0.5, seed=3)

        def call(self, x, training=False):
            value = ops.mean(self.dropout(ops.ones((1, 64)), training=training))
            self.drawn.update_state(value)
            self.squared.update_state(value**2)
            return x * value

    noise = Noise()
    model = net(kc.Model, noise)
    model.compile(Equal(keras.optimizers.SGD(0.01)), loss="mse", microbatch_size=12)
    logs = fit(model, X, Y, batch_size=48, epochs=2)
    assert float(model.optimizer.difference.numpy()) == 0
    assert logs["squared"][-1] - logs["drawn"][-1] ** 2 > 1e-3


def test_batch_normalisation_is_updated_once_a_micro_batch():
    layer = keras.layers.BatchNormalization(momentum=0.9, center=False, scale=False)
    model = kc.Model(inputs := keras.Input((6,)), keras.layers.Dense(1)(layer(inputs)))
    model.compile(keras.optimizers.SGD(0.0), loss="mse", microbatch_size=16)
    model.fit(X[:48], Y[:48], batch_size=48, shuffle=False, verbose=0)
    expected = np.zeros(6)
    for start in (0, 16, 32):
        expected = 0.9 * expected + 0.1 * X[start : start + 16].mean(axis=0)
    np.testing.assert_allclose(layer.moving_mean.numpy(), expected, atol=1e-6)


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    x = X.copy()
    x[50, 0] = np.nan  # in the second of three steps
    expected = net(keras.Model)
    expected.compile("adam", loss="mse")
    rest = np.r_[0:48, 96:120]
    expected.fit(X[rest], Y[rest], batch_size=48, shuffle=False, verbose=0)
    model = net()
    model.compile("adam", loss="mse", microbatch_size=16)
    history = model.fit(x, Y, batch_size=48, shuffle=False, verbose=0).history
    assert history["skipped_steps"] == [1]
    assert int(model.optimizer.iterations.numpy()) == 2
    assert_same_weights(model, expected)


def test_saved_and_loaded_with_the_size(tmp_path):
    model = net()
    model.compile("adam", loss="mse", microbatch_size=16)
    fit(model, X, Y, batch_size=48, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.microbatch_size == 16
    assert (
        fit(loaded, X, Y, batch_size=48, epochs=2)["loss"]
        == fit(model, X, Y, batch_size=48, epochs=2)["loss"]
    )
    assert_same_weights(loaded, model, tolerance=0)


def test_an_injected_model_is_saved_as_its_own_class(tmp_path):
    model = kc.inject(net(keras.Model))
    model.compile("adam", loss="mse", microbatch_size=16)
    fit(model, X, Y, batch_size=48, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not isinstance(loaded, kc.MultiGradientMixin)
    kc.inject(loaded).microbatch_size = 16
    fit(loaded, X, Y, batch_size=48, epochs=2), fit(model, X, Y, batch_size=48, epochs=2)
    assert_same_weights(loaded, model, tolerance=0)


def test_nested_inputs_and_no_targets():
    class Autoencoder(kc.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(6)

        def call(self, inputs):
            return self.dense(inputs["a"]) + inputs["b"]

        def compute_loss(self, x, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.mean((y_pred - x["a"]) ** 2)

    models = []
    for options in ({}, {"microbatch_size": 10}):
        keras.utils.set_random_seed(0)
        model = Autoencoder()
        model.compile(keras.optimizers.SGD(0.1), **options)
        data = {"a": X, "b": X[:, ::-1].copy()}
        model.fit(data, batch_size=48, epochs=2, shuffle=False, verbose=0)
        models.append(model)
    assert_same_weights(models[1], models[0])


@pytest.mark.parametrize("size", [0, -3, 1.5, 16.0, True, "16"])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="positive integer.*microbatch_size=16"):
        net().compile("adam", loss="mse", microbatch_size=size)


def test_a_step_of_ones_own_that_does_not_say_what_to_split():
    class Step(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            loss, _ = self.value_and_grad(
                lambda: self.compute_loss(x, y, self(x)), self.trainable_variables
            )
            return {"loss": loss}

    model = net(Step)
    model.compile("adam", loss="mse", microbatch_size=16)
    with pytest.raises(ValueError, match=r"batch=\(x, y\)"):
        fit(model, X, Y, batch_size=48, epochs=2)


def test_what_cannot_be_put_together():
    class Step(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            def loss_function(x, y):
                return self.compute_loss(x, y, self(x)), self.kernel_of_the_first()

            (loss, _), _ = self.value_and_grad(
                loss_function, self.trainable_variables, has_aux=True, batch=(x, y)
            )
            return {"loss": loss}

        def kernel_of_the_first(self):
            return self.trainable_variables[0].value

    model = net(Step)
    model.compile("adam", loss="mse", microbatch_size=16)
    with pytest.raises(ValueError, match="first dimension"):
        fit(model, X, Y, batch_size=48, epochs=2)


def test_tensors_without_the_same_samples():
    class Step(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            loss, _ = self.value_and_grad(
                lambda x, z: ops.mean(self(x)) + ops.sum(z),
                self.trainable_variables,
                batch=(x, ops.ones((3,))),
            )
            return {"loss": loss}

    model = net(Step)
    model.compile("adam", loss="mse", microbatch_size=16, run_eagerly=True)
    with pytest.raises(ValueError, match="same number of samples"):
        fit(model, X, Y, batch_size=48, epochs=2)


def test_full_batch_steps_that_evaluate_the_loss_alone():
    """`full_batch=True` computes the loss at the present point without its gradients."""
    models, logs = [], []
    for options in ({}, {"microbatch_size": 50}):
        model = net()
        optimizer = kc.optimizers.RK23(rtol=1e-2, atol=1e-3, full_batch=True)
        model.compile(optimizer, loss="mse", metrics=["mae"], **options)
        logs.append(fit(model, X, Y, batch_size=120, epochs=6))
        models.append(model)
    assert_same_weights(models[1], models[0], 1e-5)
    for name, values in logs[0].items():
        assert logs[1][name] == pytest.approx(values, rel=1e-4), name


def test_metrics_of_any_shape_and_losses_of_several_outputs_in_the_logs():
    """On TensorFlow Keras weights the losses of the outputs by batches, as their size is unknown,
    and so by micro-batches: they are equal where the micro-batches are."""
    labels = np.digitize(X[:96, 0], [-0.5, 0.5])
    histories = []
    for model_class, options in ((keras.Model, {}), (kc.Model, {"microbatch_size": 16})):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        h = keras.layers.Dense(12, activation="tanh")(inputs)
        classes = keras.layers.Dense(3, activation="softmax", name="classes")(h)
        model = model_class(inputs, [classes, keras.layers.Dense(1, name="value")(h)])
        model.compile(
            "adam",
            loss=["categorical_crossentropy", "mse"],
            loss_weights=[0.5, 2.0],
            metrics=[[keras.metrics.F1Score(average=None), "accuracy", "auc"], ["mae"]],
            **options,
        )
        targets = [keras.utils.to_categorical(labels, 3), Y[:96]]
        history = model.fit(
            X[:96], targets, batch_size=48, epochs=2, shuffle=False, verbose=0
        ).history
        histories.append(history)
    expected, history = histories
    assert history.pop("skipped_steps") == [0, 0]
    assert set(history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, err_msg=name)


def test_masked_metrics_and_weights_of_steps():
    """Keras multiplies a mask into the sample weights in place, on PyTorch into the caller's; two
    evaluations of a batch, and the metrics, see the weights as they were given."""
    x = RNG.normal(size=(24, 5, 3)).astype("float32")
    x[np.arange(5) >= RNG.integers(1, 6, size=24)[:, None]] = 0.0
    y = (x.sum(axis=-1, keepdims=True) > 0).astype("float32")
    weights = RNG.uniform(0.1, 3.0, size=(24, 5)).astype("float32")
    histories = []
    for model_class, optimizer, options in (
        (keras.Model, keras.optimizers.SGD(0.0), {}),
        (kc.Model, keras.optimizers.SGD(0.0), {"microbatch_size": 7}),
        (kc.Model, kc.optimizers.Heun(0.0), {}),
    ):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((5, 3))
        h = keras.layers.SimpleRNN(4, return_sequences=True)(keras.layers.Masking(0.0)(inputs))
        model = model_class(inputs, keras.layers.Dense(1, activation="sigmoid")(h))
        model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"], **options)
        history = model.fit(x, y, sample_weight=weights, batch_size=24, shuffle=False, verbose=0)
        histories.append([history.history[name][0] for name in ("loss", "accuracy")])
    np.testing.assert_allclose(histories[1:], [histories[0]] * 2, rtol=1e-5)


def test_two_evaluations_of_masked_and_weighted_sequences_are_equal():
    x = np.ones((6, 4, 2), "float32")
    x[:, 2:] = 0.0
    y, weights = np.ones((6, 4, 1), "float32"), np.full((6, 4), 2.0, "float32")

    class Difference(kc.optimizers.MultiGradientOptimizer):
        def __init__(self, optimizer, name=None):
            super().__init__(optimizer, name=name)
            self.difference = self.add_variable(shape=(), name="difference")

        def estimate_gradient(self, evaluate, point):
            first, gradients = evaluate(point)
            self.difference.assign(ops.abs(evaluate(point)[0] - first))
            return gradients

    inputs = keras.Input((4, 2))
    model = kc.Model(inputs, keras.layers.Dense(1)(keras.layers.Masking(0.0)(inputs)))
    model.compile(Difference(0.1), loss="mse")
    model.fit(x, y, sample_weight=weights, batch_size=6, verbose=0)
    assert float(model.optimizer.difference.numpy()) == 0


def test_a_model_without_trainable_weights():
    model = net()
    model.trainable = False
    model.compile("adam", loss="mse", microbatch_size=16)
    with pytest.warns(UserWarning, match="any trainable weights"):
        history = fit(model, X, Y, batch_size=48)
    assert np.isfinite(history["loss"][0])


def test_copies_of_an_injected_model_keep_the_size():
    model = kc.inject(net(keras.Model))
    model.compile("adam", loss="mse", microbatch_size=16)
    assert copy.deepcopy(model).microbatch_size == 16


def test_float8_scales_are_refused():
    model = net()
    model.trainable_variables[0].overwrite_with_gradient = True
    model.compile("adam", loss="mse", microbatch_size=16)
    with pytest.raises(ValueError, match="float8"):
        fit(model, X, Y, batch_size=48, epochs=2)


@pytest.mark.backend("tensorflow")
def test_sparse_inputs_are_refused():
    import tensorflow as tf

    inputs = keras.Input((6,), sparse=True)
    model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("adam", loss="mse", microbatch_size=16)
    data = tf.data.Dataset.from_tensor_slices((tf.sparse.from_dense(X), Y)).batch(48)
    with pytest.raises(ValueError, match="dense tensors"):
        model.fit(data, verbose=0)


@pytest.mark.parametrize("size", [5, 16])
def test_convolutions(size):
    """On JAX without an accelerator they are transposed, to be fast in a loop."""
    x = RNG.normal(size=(48, 8, 8, 2)).astype("float32")
    models = []
    for model_class, options in ((keras.Model, {}), (kc.Model, {"microbatch_size": size})):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 2))
        h = keras.layers.MaxPooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
        model = model_class(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(h)))
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss="mse", **options)
        model.fit(x, Y[:48], batch_size=48, epochs=3, shuffle=False, verbose=0)
        models.append(model)
    assert_same_weights(models[1], models[0])


class WithSums(kc.Model):
    """Two `sum` losses inside a layer: one over its weights, one over what the samples make."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        self.built = True

    def build(self, shape=None):
        self.dense.build((None, self.rows))

    def call(self, x):
        total = keras.losses.MeanSquaredError(reduction="sum")
        y = self.dense(x)
        self.add_loss(0.1 * total(ops.zeros(self.dense.kernel.shape), self.dense.kernel))
        self.add_loss(0.01 * total(ops.ones_like(y), y))
        return y


@pytest.mark.parametrize("loss", ["mse", "sum"])
@pytest.mark.parametrize("way", ["micro-batches", "window", "both"])
def test_a_sum_that_no_sample_enters_counts_once(way, loss):
    """A penalty on a kernel that has as many rows as a micro-batch samples; NumPy in float64."""
    options = {} if way == "window" else {"microbatch_size": 4}
    steps = {"micro-batches": 1, "window": 2, "both": 2}[way]
    sgd = keras.optimizers.SGD(0.001)
    model = WithSums(4)
    model.build()
    optimizer = sgd if steps == 1 else kc.optimizers.Accumulate(sgd, steps)
    compiled_loss = keras.losses.MeanSquaredError(reduction="sum") if loss == "sum" else loss
    model.compile(optimizer, loss=compiled_loss, **options)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 4)), rng.normal(size=(16, 1))
    model.fit(x, y, batch_size=16 // steps, shuffle=False, epochs=2, verbose=0)
    w = np.ones((4, 1))
    for _ in range(2):
        residual = x @ w - y
        main = 2 * x.T @ residual / (1 if loss == "sum" else 16)
        w = w - 0.001 * (main + 0.1 * 2 * w + 0.01 * 2 * x.T @ (x @ w - 1))
    np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-5)


@pytest.mark.parametrize("samples", [1, 4, 10])
def test_what_has_as_many_entries_as_a_microbatch_by_chance_is_no_samples(samples):
    """A vector of 4 beside the loss, with micro-batches of 4: it was joined to one of 4 each."""

    class Vector(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            def loss_function(x, y):
                prediction = self(x, training=True)
                aux = {"per feature": ops.mean(x, axis=0)} if self.vector else {"rows": prediction}
                return self.compute_loss(x, y, prediction), aux

            (loss, aux), _ = self.value_and_grad(
                loss_function, self.trainable_variables, has_aux=True, batch=(x, y)
            )
            return {"loss": loss, **{k: ops.sum(v) for k, v in aux.items()}}

    inputs = keras.Input((4,))
    model = Vector(inputs, keras.layers.Dense(1, kernel_initializer="ones")(inputs))
    model.compile("sgd", loss="mse", microbatch_size=4)
    x, y = np.ones((samples, 4), "float32"), np.ones((samples, 1), "float32")
    model.vector = False
    logs = model.fit(x, y, batch_size=samples, verbose=0).history
    assert logs["rows"] == [4 * samples]
    model.vector = True
    model.compile("sgd", loss="mse", microbatch_size=4)
    with pytest.raises(ValueError, match=r"has the samples as its first dimension.*\(4,\)"):
        model.fit(x, y, batch_size=samples, verbose=0)


@pytest.mark.backend("jax")
@pytest.mark.parametrize(
    ("optimizer", "microbatch_size"),
    [("sgd", 4), ("heun", 4), ("accumulate", 4), ("rk45", None), ("full-batch", 4)],
)
def test_no_tracer_leaves_a_step(optimizer, microbatch_size):
    import jax

    make = {
        "sgd": lambda: "sgd",
        "heun": lambda: kc.optimizers.Heun(0.1),
        "rk45": lambda: kc.optimizers.RK45("adam"),
        "full-batch": lambda: kc.optimizers.RK23(0.1, full_batch=True),
        "accumulate": lambda: kc.optimizers.Accumulate("sgd", 2),
    }[optimizer]
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(1)(keras.layers.Dropout(0.5)(inputs))
    model = kc.Model(inputs, outputs)
    model.compile(make(), loss="mse", metrics=["mae"], microbatch_size=microbatch_size)
    x = np.ones((16, 4), "float32")
    with jax.checking_leaks():
        model.fit(x, x[:, :1], batch_size=8, verbose=0)
