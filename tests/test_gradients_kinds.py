"""Missing gradients and the sparse gradients of embeddings, between evaluations and at the end."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = RNG.normal(size=(8, 1)).astype("float32")


class WithUnused(kc.Model):
    def __init__(self):
        super().__init__()
        self.used = keras.layers.Dense(1)
        self.unused = keras.layers.Dense(2, name="unused")
        self.unused.build((None, 3))

    def call(self, x):
        return self.used(x)


@pytest.mark.parametrize("optimizer", ["heun", "sgd"])
def test_a_missing_gradient_goes_to_the_optimizer_which_warns(optimizer):
    class OwnStep(WithUnused):
        def multi_gradient_step(self, x, y, sample_weight):
            return super().multi_gradient_step(x, y, sample_weight)

    model = OwnStep()
    inner = keras.optimizers.SGD(0.1, weight_decay=0.5)
    model.compile(kc.optimizers.Heun(inner) if optimizer == "heun" else inner, loss="mse")
    before = model.unused.get_weights()
    with pytest.warns(UserWarning, match="Gradients do not exist for variables.*unused"):
        model.fit(X, Y, verbose=0)
    for a, b in zip(before, model.unused.get_weights()):
        np.testing.assert_array_equal(a, b)  # a zero gradient would have let it decay


def test_a_missing_gradient_is_zero_between_evaluations():
    seen = []

    class Recorder(kc.optimizers.MultiGradientOptimizer):
        def estimate_gradient(self, evaluate, point):
            _, gradients = evaluate(point)
            seen.append([tuple(g.shape) for g in gradients])
            return gradients

    model = WithUnused()
    model.compile(Recorder(0.1), loss="mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(X, Y, batch_size=8, verbose=0)
    assert seen == [[tuple(v.shape) for v in model.trainable_variables]]


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
