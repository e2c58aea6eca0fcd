"""Missing gradients and the sparse gradients of embeddings, between evaluations and at the end."""

import re
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = RNG.normal(size=(8, 1)).astype("float32")


class WithUnused:
    def __init__(self):
        super().__init__()
        self.used = keras.layers.Dense(1)
        self.unused = keras.layers.Dense(2, name="unused")
        self.unused.build((None, 3))

    def call(self, x):
        return self.used(x)


def with_unused(model_class, optimizer, **options):
    model = type("M", (WithUnused, model_class), {})()
    model.compile(optimizer, loss="mse", **options)
    return model


def decaying():
    return keras.optimizers.SGD(0.1, weight_decay=0.5)


WAYS = {
    "default": (decaying, {}, False),
    "observed": (decaying, {}, True),
    "micro-batches": (decaying, {"microbatch_size": 4}, False),
    "a method": (lambda: kc.optimizers.Heun(decaying()), {}, False),
    "a window": (lambda: kc.optimizers.Accumulate(decaying(), 1), {}, False),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_variable_without_gradient_is_as_in_keras_own_step(way):
    """On JAX that has zeros for it, and it decays; elsewhere `None`, of which Keras warns."""
    optimizer, options, observed = WAYS[way]
    model, expected = (
        with_unused(kc.Model, optimizer(), **options),
        with_unused(keras.Model, decaying()),
    )
    before = model.unused.get_weights()
    expected.unused.set_weights(before)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, Y, verbose=0, callbacks=[kc.callbacks.StepMonitor()] if observed else [])
    warned = any(re.search("Gradients do not exist.*unused", str(w.message)) for w in caught)
    expected.fit(X, Y, verbose=0)
    assert_all_close(model.unused.get_weights(), expected.unused.get_weights(), rtol=1e-6)
    assert warned is (keras.backend.backend() != "jax")


def test_a_missing_gradient_is_zero_between_evaluations():
    seen = []

    class Recorder(kc.optimizers.MultiGradientOptimizer):
        def estimate_gradient(self, evaluate, point):
            _, gradients = evaluate(point)
            seen.append([tuple(g.shape) for g in gradients])
            return gradients

    model = with_unused(kc.Model, Recorder(0.1), run_eagerly=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, Y, batch_size=8, verbose=0)
    assert seen == [[tuple(v.shape) for v in model.trainable_variables]]


def test_in_a_step_of_ones_own_it_is_none():
    """On every backend, and the optimizer warns."""
    seen = []

    class OwnStep(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            variables = self.trainable_variables
            loss, gradients = self.value_and_grad(
                lambda: ops.mean(ops.square(self(x) - y)), variables
            )
            seen.append([g is None for g in gradients])
            self.apply_gradients(gradients, variables)
            return {"loss": loss}

    model = with_unused(OwnStep, decaying())
    before = model.unused.get_weights()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(X, Y, verbose=0)
    missing = [v.path for v, m in zip(model.trainable_variables, seen[0]) if m]
    assert missing == [v.path for v in model.unused.trainable_variables]
    assert_all_equal(before, model.unused.get_weights())


def test_an_embedding_under_heun_against_numpy():
    tokens = RNG.integers(0, 5, size=(10, 1))
    targets = RNG.normal(size=(10, 2)).astype("float32")
    table = RNG.normal(size=(6, 2))
    inputs = keras.Input((1,), dtype="int32")
    model = kc.Model(inputs, ops.squeeze(keras.layers.Embedding(6, 2)(inputs), 1))
    model.set_weights([table])
    model.compile(kc.optimizers.Heun(0.5), loss="mse")
    model.fit(tokens, targets, batch_size=10, epochs=5, verbose=0)

    one_hot = np.eye(6)[tokens[:, 0]]

    def gradient(table):
        return one_hot.T @ (2 * (one_hot @ table - targets) / targets.size)

    for _ in range(5):
        first = gradient(table)
        table = table - 0.25 * (first + gradient(table - 0.5 * first))
    np.testing.assert_allclose(model.get_weights()[0], table, rtol=1e-5)


SOLVERS = {
    "rk23": lambda: kc.optimizers.RK23(0.1, rtol=0.1, atol=0.01),
    "rk23 over adam": lambda: kc.optimizers.RK23(keras.optimizers.Adam(0.01), rtol=0.1),
    "rk45, full batch": lambda: kc.optimizers.RK45(0.1, full_batch=True),
    "first step chosen": lambda: kc.optimizers.RK23(first_step="auto"),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("microbatch_size", [None, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_embedding_before_an_rnn_under_step_size_control(solver, microbatch_size):
    """It is a product with one-hot vectors. In a graph TensorFlow knows the shape of neither the
    gradient of an embedding nor of what follows an RNN, and its loops ask for both."""
    table = RNG.normal(size=(7, 4)).astype("float32")
    words = RNG.integers(0, 7, size=(8, 5))
    targets = RNG.normal(size=(8, 5, 1)).astype("float32")

    def trained(inputs, first, x):
        keras.utils.set_random_seed(0)
        hidden = keras.layers.SimpleRNN(3, return_sequences=True)(first(inputs))
        model = kc.Model(inputs, keras.layers.Dense(1)(hidden))
        first.set_weights([table])
        model.compile(SOLVERS[solver](), loss="mse", microbatch_size=microbatch_size)
        model.fit(x, targets, batch_size=8, epochs=3, verbose=0)
        return model.get_weights()

    embedding, dense = keras.layers.Embedding(7, 4), keras.layers.Dense(4, use_bias=False)
    weights = trained(keras.Input((5,), dtype="int32"), embedding, words)
    expected = trained(keras.Input((5, 7)), dense, np.eye(7, dtype="float32")[words])
    assert np.abs(weights[0] - table).max() > 1e-4
    for a, b in zip(weights, expected):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
