"""`enable_float64`: every operation, every kind of state and every method of ours in float64.

The call itself is for a whole process and is tested in processes of its own; what it does, under
the fixture `float64`, which takes it back.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special

import keras_cool as kc
from keras_cool import keras_private
from support.comparisons import assert_all_close

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 4)), RNG.normal(size=(4, 3))
P = np.abs(X) + 0.5

OPERATIONS = {
    "tanh": (lambda: ops.tanh(X), np.tanh(X)),
    "sin": (lambda: ops.sin(X), np.sin(X)),
    "exp": (lambda: ops.exp(X), np.exp(X)),
    "log": (lambda: ops.log(P), np.log(P)),
    "sqrt": (lambda: ops.sqrt(P), np.sqrt(P)),
    "sigmoid": (lambda: ops.sigmoid(X), special.expit(X)),
    "softmax": (lambda: ops.softmax(X), special.softmax(X, 1)),
    "logsumexp": (lambda: ops.logsumexp(X), special.logsumexp(X)),
    "sum": (lambda: ops.sum(X), X.sum()),
    "mean": (lambda: ops.mean(X), X.mean()),
    "var": (lambda: ops.var(X), X.var()),
    "std": (lambda: ops.std(X), X.std()),
    "norm": (lambda: ops.norm(X), np.linalg.norm(X)),
    "matmul": (lambda: ops.matmul(X, Y), X @ Y),
    "dot": (lambda: ops.dot(X, Y), X @ Y),
    "tensordot": (lambda: ops.tensordot(X, Y, 1), X @ Y),
    "einsum": (lambda: ops.einsum("ij,jk->ik", X, Y), X @ Y),
    "maximum": (lambda: ops.maximum(X, 0.1), np.maximum(X, 0.1)),
    "power": (lambda: ops.power(P, 0.3), P**0.3),
    "times": (lambda: ops.convert_to_tensor(X) * 0.1, X * 0.1),
    "arctan2": (lambda: ops.arctan2(X, P), np.arctan2(X, P)),
    "linspace": (lambda: ops.linspace(0.0, 1.0, 7), np.linspace(0, 1, 7)),
    "solve": (lambda: ops.solve(P.T @ P, Y), np.linalg.solve(P.T @ P, Y)),
    "rfft": (lambda: ops.rfft(ops.convert_to_tensor(X))[0], np.fft.rfft(X).real),
    "sparse_categorical_crossentropy": (
        lambda: ops.sparse_categorical_crossentropy([0, 1, 2, 0], Y, from_logits=True),
        -special.log_softmax(Y, 1)[range(4), [0, 1, 2, 0]],
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, float64):
    compute, expected = OPERATIONS[name]
    result = compute()
    assert keras.backend.standardize_dtype(result.dtype) == "float64"
    np.testing.assert_allclose(ops.convert_to_numpy(result), expected, rtol=1e-13, atol=1e-15)


def test_value_and_grad(float64):
    def loss(tensors):
        return ops.mean(ops.tanh(ops.matmul(*tensors)))

    value, gradients = kc.value_and_grad(loss)([ops.convert_to_tensor(a) for a in (X, Y)])
    hidden = np.tanh(X @ Y)
    outer = (1 - hidden**2) / hidden.size
    assert {keras.backend.standardize_dtype(t.dtype) for t in (value, *gradients)} == {"float64"}
    np.testing.assert_allclose(float(value), hidden.mean(), rtol=1e-13)
    for gradient, expected in zip(gradients, (outer @ Y.T, X.T @ outer)):
        np.testing.assert_allclose(ops.convert_to_numpy(gradient), expected, rtol=1e-12)


def narrow(variables):
    """The floating-point variables that are not in float64."""
    dtypes = {v.path: keras.backend.standardize_dtype(v.dtype) for v in variables}
    return {path: d for path, d in dtypes.items() if "float" in d and d != "float64"}


def convolutional():
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    x = keras.layers.LayerNormalization()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    return kc.Model(inputs, keras.layers.Dense(1)(x)), RNG.normal(size=(8, 6, 6, 2))


def sequential():
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(10, 8, mask_zero=True)(inputs)
    x = x + keras.layers.MultiHeadAttention(2, 4)(x, x)
    x = keras.layers.LSTM(4)(keras.layers.GRU(4, return_sequences=True)(x))
    return kc.Model(inputs, keras.layers.Dense(1)(x)), RNG.integers(0, 10, size=(8, 6))


@pytest.mark.parametrize("net", [convolutional, sequential])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: "adamw",
        lambda: kc.optimizers.RK23("adam"),
        lambda: kc.optimizers.Accumulate("adam", 2),
    ],
    ids=["adamw", "rk23-adam", "accumulate"],
)
def test_all_state_of_training_is_in_float64(net, optimizer, float64):
    model, x = net()
    whole = len(x) if not isinstance(optimizer(), kc.optimizers.Accumulate) else 4
    model.compile(optimizer(), loss="mse", metrics=["mae"], microbatch_size=3)
    logs = model.fit(x, RNG.normal(size=(8, 1)), batch_size=whole, epochs=2, verbose=0).history
    assert np.isfinite(logs["loss"]).all() and np.isfinite(logs["mae"]).all()
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    assert not narrow(variables)
    assert model.predict(x, verbose=0).dtype == np.float64


def test_a_window_is_the_large_batch_to_float64(float64):
    x, y = RNG.normal(size=(8, 3)), RNG.normal(size=(8, 1))
    ends = []
    for optimizer, size in ((kc.optimizers.Accumulate("adam", 4), 2), ("adam", 8)):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
        model.compile(optimizer, loss="mse")
        model.fit(x, y, batch_size=size, epochs=5, shuffle=False, verbose=0)
        ends.append(model.get_weights())
    for ours, large in zip(*ends):
        np.testing.assert_allclose(ours, large, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.Dense(1),
        lambda: keras.Variable(1.0),
        keras.losses.MeanSquaredError,
        keras.metrics.Mean,
        keras.optimizers.SGD,
        lambda: keras.Input((3,)),
    ],
    ids=["layer", "variable", "loss", "metric", "optimizer", "input"],
)
def test_what_exists_already_is_an_error_that_changes_nothing(make):
    thing, before = make(), dict(keras_private.BIT64_TO_BIT32_DTYPE)
    with pytest.raises(RuntimeError, match=r"(?s)\(float32\).*at the start of the program"):
        kc.enable_float64()
    del thing
    assert keras.config.floatx() == keras.config.dtype_policy().name == "float32"
    assert before == keras_private.BIT64_TO_BIT32_DTYPE


IN_A_PROCESS = """
import keras
import keras_cool as kc

seeds = keras.random.SeedGenerator(0)  # an integer: no matter
of_float64 = keras.Variable(1.0, dtype="float64")
forgotten = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
forgotten.compile("adam", loss="mse")
del forgotten
keras.utils.clear_session(free_memory=False)
kc.enable_float64()
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile("adam", loss="mse")
model.fit(keras.ops.ones((4, 1)), keras.ops.ones((4, 1)), verbose=0)
kc.enable_float64()  # a second call, with a model there
kernel = model.layers[0].kernel
print(kernel.dtype, model.optimizer.learning_rate.dtype, keras.backend.floatx())
third = keras.ops.tanh(keras.ops.convert_to_tensor(kernel) * 0 + 1)
print(repr(float(keras.ops.squeeze(third))))
"""


def test_one_call_at_the_start_of_a_process():
    command = [sys.executable, "-c", IN_A_PROCESS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    dtypes, value = done.stdout.splitlines()
    assert dtypes == "float64 float64 float64"
    assert abs(float(value) - np.tanh(1.0)) < 1e-15


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_the_weights_of_batches_are_in_float64(reduction, float64):
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(12, 4)), rng.normal(size=(12, 1)), rng.random(12)

    def train(optimizer, batch_size):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4,))
        model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
        model.compile(optimizer, loss=keras.losses.MeanSquaredError(reduction=reduction))
        arguments = {"batch_size": batch_size, "shuffle": False, "verbose": 0}
        model.fit(x, y, sample_weight=weights, epochs=2, **arguments)
        return model.get_weights()

    window = train(kc.optimizers.Accumulate(keras.optimizers.SGD(0.01), 3), 4)
    assert_all_close(window, train(keras.optimizers.SGD(0.01), 12), rtol=1e-13)
