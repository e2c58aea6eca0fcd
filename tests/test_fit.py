"""Everything that `fit` takes, under Heun: models, inputs, weights, modes of execution."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal, assert_same_state
from support.training import fit

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 4)).astype("float32")
Y = (X @ np.array([[1.0], [-1.0], [2.0], [0.5]]) + 0.3).astype("float32")
START = [np.full((4, 1), 0.1, "float32"), np.zeros(1, "float32")]


class Subclassed(kc.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)


class MixedIn(kc.MultiGradientMixin, keras.Sequential):
    pass


def functional():
    inputs = keras.Input((4,))
    return kc.Model(inputs, keras.layers.Dense(1)(inputs))


def compiled(make=functional, **arguments):
    keras.utils.set_random_seed(0)
    model = make()
    model(X[:1])
    model.set_weights(START)
    model.compile(kc.optimizers.Heun(0.05), loss="mse", **arguments)
    return model


def numpy_fit(x=X, y=Y, batch_size=8, epochs=2, sample_weight=None):
    """Heun on least squares in float64; `sample_weight` as Keras: a mean over the batch size."""
    w, b = (s.astype("float64") for s in START)
    sample_weight = np.ones(len(x)) if sample_weight is None else sample_weight
    for _ in range(epochs):
        for i in range(0, len(x), batch_size):
            xb, yb, sw = (a[i : i + batch_size] for a in (x, y, sample_weight[:, None]))

            def gradient(w, b):
                error = 2 * sw * (xb @ w + b - yb) / len(xb)
                return xb.T @ error, error.sum(0)

            first = gradient(w, b)
            second = gradient(w - 0.05 * first[0], b - 0.05 * first[1])
            w = w - 0.025 * (first[0] + second[0])
            b = b - 0.025 * (first[1] + second[1])
    return w, b


def assert_fitted_as_numpy(model, **arguments):
    assert_all_close(model.get_weights(), numpy_fit(**arguments), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [functional, Subclassed, lambda: MixedIn([keras.layers.Dense(1)])],
    ids=["functional", "subclassed", "sequential"],
)
def test_model_kinds(make):
    model = compiled(make)
    fit(model, X, Y, epochs=2)
    assert_fitted_as_numpy(model)


@pytest.mark.parametrize("make", [Subclassed, lambda: MixedIn([keras.layers.Dense(1)])])
def test_models_that_are_not_built(make):
    model = make()
    model.compile(kc.optimizers.Heun(0.05), loss="mse", metrics=["mae"])
    history = fit(model, X, Y, epochs=10)
    assert history["loss"][-1] < 0.2 * history["loss"][0]


def test_train_on_batch_builds_too():
    model = Subclassed()
    model.compile(kc.optimizers.Heun(0.05), loss="mse")
    first = model.train_on_batch(X, Y, return_dict=True)["loss"]
    assert model.train_on_batch(X, Y, return_dict=True)["loss"] < first


@pytest.mark.parametrize(
    "arguments",
    [
        {"run_eagerly": True},
        {"jit_compile": False},
        {"jit_compile": True},
        pytest.param(
            {"steps_per_execution": 2},
            marks=pytest.mark.backend("jax", "tensorflow"),
        ),
    ],
    ids=lambda a: "-".join(f"{k}={v}" for k, v in a.items()),
)
def test_modes_of_execution(arguments):
    model = compiled(**arguments)
    fit(model, X, Y, epochs=2)
    assert_fitted_as_numpy(model)


@pytest.mark.backend("torch")
def test_steps_per_execution_on_pytorch_has_keras_own_error():
    with pytest.raises(ValueError, match="must be 1 with the PyTorch backend"):
        fit(compiled(steps_per_execution=2), X, Y, epochs=2)


def test_train_on_batch():
    model = compiled()
    for _ in range(2):
        for i in range(0, 20, 8):
            model.train_on_batch(X[i : i + 8], Y[i : i + 8])
    assert_fitted_as_numpy(model)


def test_sample_weights():
    weights = RNG.uniform(0.5, 2.0, size=20)
    model = compiled()
    fit(model, X, Y, epochs=2, sample_weight=weights.astype("float32"))
    assert_fitted_as_numpy(model, sample_weight=weights)


def test_class_weights():
    """Class weights are sample weights by label; the regression sees integer targets."""
    y = (Y > 0).astype("int64")
    model = compiled()
    fit(model, X, y, epochs=2, class_weight={0: 0.5, 1: 2.0})
    assert_fitted_as_numpy(model, y=y, sample_weight=np.where(y[:, 0] > 0, 2.0, 0.5))


def test_validation_and_callbacks():
    model = compiled(metrics=["mae"])
    stop = keras.callbacks.EarlyStopping("val_loss", mode="max")
    history = fit(model, X, Y, epochs=5, callbacks=[stop], validation_data=(X, Y))
    assert len(history["val_mae"]) == 2
    assert_fitted_as_numpy(model, epochs=2)


def test_validation_split():
    model = compiled()
    history = fit(model, X, Y, epochs=2, validation_split=0.2)
    assert "val_loss" in history
    assert_fitted_as_numpy(model, x=X[:16], y=Y[:16])


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8]


def generator():
    while True:
        for i in range(0, 20, 8):
            yield X[i : i + 8], Y[i : i + 8]


def tensorflow_dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)


def torch_loader():
    import torch

    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(data, batch_size=8)


SOURCES = {"pydataset": Batches, "generator": generator}
# Each environment holds one backend; these inputs need the package that they come from.
if BACKEND == "tensorflow":
    SOURCES["tf.data"] = tensorflow_dataset
if BACKEND == "torch":
    SOURCES["dataloader"] = torch_loader


@pytest.mark.parametrize("source", SOURCES)
def test_input_kinds(source):
    model = compiled()
    steps = 3 if source == "generator" else None
    fit(model, SOURCES[source](), batch_size=None, epochs=2, steps_per_epoch=steps)
    assert_fitted_as_numpy(model)


@pytest.mark.parametrize("source", SOURCES)
def test_input_kinds_build_the_model_and_lose_no_batch(source):
    """The first batch, from which the variables are built, is trained on as well."""
    model = Subclassed()
    model.compile(kc.optimizers.Heun(0.05), loss="mse")
    model.dense.kernel_initializer = keras.initializers.Constant(0.1)
    steps = 3 if source == "generator" else None
    fit(model, SOURCES[source](), batch_size=None, epochs=2, steps_per_epoch=steps)
    assert_fitted_as_numpy(model)


def test_several_inputs_and_outputs():
    inputs = {"left": keras.Input((4,), name="left"), "right": keras.Input((4,), name="right")}
    left, right = (keras.layers.Dense(1, name=f"{k}_out")(v) for k, v in inputs.items())
    model = kc.Model(inputs, {"sum": left + right, "left": left})
    model.set_weights([s for _ in range(2) for s in START])
    model.compile(
        kc.optimizers.Heun(0.05),
        loss={"sum": "mse", "left": "mae"},
        loss_weights={"sum": 1.0, "left": 0.0},
        metrics={"sum": ["mae"]},
    )
    data = {"left": X, "right": X}, {"sum": Y, "left": Y}
    history = fit(model, *data, epochs=2)
    assert {"loss", "sum_loss", "left_loss", "sum_mae"} <= set(history)
    kernels = model.get_weights()[::2]
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=1e-5)
    assert history["loss"][1] < history["loss"][0]


def test_frozen_layers_stay():
    inputs = keras.Input((4,))
    frozen = keras.layers.Dense(4, trainable=False)
    model = kc.Model(inputs, keras.layers.Dense(1)(frozen(inputs)))
    before, last = frozen.get_weights(), model.layers[-1].get_weights()
    model.compile(kc.optimizers.Heun(0.05), loss="mse")
    fit(model, X, Y, epochs=2)
    assert_all_equal(before, frozen.get_weights())
    assert np.abs(last[0] - model.layers[-1].get_weights()[0]).max() > 1e-3


def test_nothing_trainable_warns_as_keras_does():
    model = compiled()
    model.trainable = False
    model.compile(kc.optimizers.Heun(0.05), loss="mse")
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        fit(model, X, Y, epochs=2)
    assert_all_equal(START, model.get_weights())


class Penalised(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.1))

    def call(self, x):
        y = self.dense(x)
        self.add_loss(0.5 * ops.mean(y**2))
        return y


def test_regularisers_and_add_loss_are_part_of_every_evaluation():
    inputs = keras.Input((4,))
    model = kc.Model(inputs, Penalised()(inputs))
    model.set_weights(START)
    model.compile(kc.optimizers.Heun(0.05), loss="mse")
    model.fit(X, Y, batch_size=20, epochs=5, verbose=0)

    w, b = (s.astype("float64") for s in START)

    def gradient(w, b):
        out = X @ w + b
        error = (2 * (out - Y) + out) / len(X)
        return X.T @ error + 0.2 * w, error.sum(0)

    for _ in range(5):
        first = gradient(w, b)
        second = gradient(w - 0.05 * first[0], b - 0.05 * first[1])
        w, b = w - 0.025 * (first[0] + second[0]), b - 0.025 * (first[1] + second[1])
    np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.get_weights()[1], b, rtol=1e-5, atol=1e-6)


def test_masks_and_embeddings():
    """What the padding holds does not matter, and unused rows of the embedding do not move."""
    tokens = RNG.integers(1, 6, size=(12, 5))
    tokens[::2, 3:] = 0
    y = RNG.normal(size=(12, 1)).astype("float32")

    def trained(rows):
        keras.utils.set_random_seed(2)
        inputs = keras.Input((5,), dtype="int32")
        x = keras.layers.Embedding(rows, 3, mask_zero=True)(inputs)
        model = kc.Model(inputs, keras.layers.Dense(1)(keras.layers.GRU(4)(x)))
        model.layers[1].set_weights([np.linspace(-1, 1, rows * 3).reshape(rows, 3)[::-1]])
        model.compile(kc.optimizers.Heun(0.1), loss="mse")
        before = model.layers[1].get_weights()[0]
        history = model.fit(tokens, y, batch_size=6, epochs=4, shuffle=False, verbose=0).history
        return before, model.layers[1].get_weights()[0], history["loss"]

    before, after, losses = trained(8)
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(before[[0, 6, 7]], after[[0, 6, 7]])
    assert np.abs(before[1:6] - after[1:6]).max(axis=1).min() > 1e-5


def test_constraints_hold_after_the_step():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(1, kernel_constraint=keras.constraints.NonNeg())
    model = kc.Model(inputs, dense(inputs))
    model.compile(kc.optimizers.Heun(0.05), loss="mse")
    fit(model, X, Y, epochs=20)
    assert dense.kernel.numpy().min() >= 0
    assert dense.kernel.numpy()[2, 0] > 1


def test_a_custom_loss_with_its_own_metric():
    class OwnLoss(kc.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.calls = keras.metrics.Sum(name="calls")

        def call(self, x):
            return self.dense(x)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            self.calls.update_state(1.0)
            return ops.mean((y - y_pred) ** 2)

    model = compiled(OwnLoss)
    history = fit(model, X, Y, epochs=2)
    assert history["calls"] == [3.0, 3.0]  # the first evaluation of each step
    assert_fitted_as_numpy(model)


@pytest.mark.backend("jax", "torch")  # Keras' rematerialisation fails on TensorFlow by itself
def test_rematerialised_layers_are_recomputed_at_the_trial_point():
    def losses(mode):
        keras.utils.set_random_seed(0)
        with keras.RematScope(mode=mode):
            inputs = keras.Input((4,))
            h = keras.layers.Dense(16, activation="tanh")(inputs)
            h = keras.layers.Dense(16, activation="tanh")(h)
            model = kc.Model(inputs, keras.layers.Dense(1)(h))
        model.compile(kc.optimizers.Heun(0.1), loss="mse")
        return model.fit(X, Y, batch_size=20, epochs=6, verbose=0).history["loss"]

    np.testing.assert_allclose(losses("full"), losses(None), rtol=1e-5)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_step_of_ones_own_has_tensors_in_train_on_batch(run_eagerly):
    """Of the dtypes that `fit` gives it, whatever arrays come."""
    seen = []

    class Look(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            leaves = keras.tree.flatten((x, y, sample_weight))
            seen.append(
                [(ops.is_tensor(v), keras.backend.standardize_dtype(v.dtype)) for v in leaves]
            )
            return {"loss": ops.mean(x["a"] + 0.0)}

    inputs = {"a": keras.Input((4,)), "b": keras.Input((1,), dtype="int32")}
    model = Look(inputs, keras.layers.Dense(1)(inputs["a"]))
    model.compile("sgd", loss="mse", run_eagerly=run_eagerly)
    x = {"a": X.astype("float64"), "b": np.arange(20, dtype="int32")[:, None]}
    weights = np.ones(20)
    model.train_on_batch(x, Y.astype("float64"), sample_weight=weights)
    of_batch = seen[-1]
    model.fit(x, Y.astype("float64"), sample_weight=weights, batch_size=20, verbose=0)
    assert of_batch == seen[-1]
    assert of_batch == [(True, "float32"), (True, "int32"), (True, "float32"), (True, "float32")]


@pytest.mark.backend("tensorflow", "torch")  # Keras itself on JAX builds such a model by symbols
@pytest.mark.parametrize("optimizer", ["plain", "heun", "accumulate"])
def test_control_flow_of_python_on_values_runs_eagerly(optimizer):
    class Branching(kc.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.dropout = keras.layers.Dropout(0.5, seed=1)

        def call(self, x, training=False):
            y = self.dropout(self.dense(x), training=training)
            return y if float(ops.max(x)) > 0 else -y

    class OwnStep(Branching):
        def multi_gradient_step(self, x, y, sample_weight):
            assert float(ops.max(x)) > 0
            return super().multi_gradient_step(x, y, sample_weight)

    make = {
        "plain": lambda: keras.optimizers.SGD(0.01),
        "heun": lambda: kc.optimizers.Heun(0.01),
        "accumulate": lambda: kc.optimizers.Accumulate(0.01, 1),
    }[optimizer]
    model = OwnStep()
    model.compile(make(), loss="mse", metrics=["mae"], run_eagerly=True)
    logs = model.fit(X, Y, batch_size=10, verbose=0).history
    assert {"loss", "mae"} <= set(logs)
    assert int(model.optimizer.iterations) == 2
    model.evaluate(X, Y, verbose=0)


UNCOUNTED = {
    "Heun": lambda: kc.optimizers.Heun("adam"),
    "RungeKuttaChebyshev": lambda: kc.optimizers.RungeKuttaChebyshev(0.1, stages=3),
    "RK23": lambda: kc.optimizers.RK23(0.1),
    "Accumulate": lambda: kc.optimizers.Accumulate("adam", 2),
    "Accumulate, carried": lambda: kc.optimizers.Accumulate("adam", 4, last_window="carry"),
    "Accumulate, no mixin": lambda: kc.optimizers.Accumulate("adam", 2, last_window="carry"),
}


@pytest.mark.parametrize("name", UNCOUNTED)
def test_data_of_unknown_length_end_as_others(name):
    """TensorFlow learns in the compiled step that there is no further batch, and runs of this step
    what does not depend on one: it would count, and draw seeds."""
    x = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
    plain = name.endswith("no mixin")

    def trained(known):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        hidden = inputs if plain else keras.layers.Dropout(0.3, seed=1)(inputs)
        model = (keras.Model if plain else kc.Model)(inputs, keras.layers.Dense(1)(hidden))
        model.compile(UNCOUNTED[name](), loss="mse")
        for _ in range(3):
            batches = ((x[i : i + 8], x[i : i + 8, :1]) for i in range(0, 24, 8))
            data = (x, x[:, :1]) if known else (batches,)
            model.fit(*data, batch_size=8 if known else None, shuffle=False, verbose=0)
        return model

    expected, model = trained(known=True), trained(known=False)
    assert_same_state(model, expected)
    for a, b in zip(model.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
