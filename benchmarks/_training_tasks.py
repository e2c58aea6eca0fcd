"""The tasks that the solvers are tried on, as data: model, loss, batches, start and budget."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from _recorded_training import Recording
from keras import ops
from sklearn.datasets import load_digits

import keras_cool as kc


class Task(NamedTuple):
    title: str
    model: Callable  # makes the model
    x: np.ndarray
    y: np.ndarray
    budget: int  # gradient evaluations of a run
    loss: Any = "mse"
    batch_size: int | None = None  # None: the full batch
    epochs: int = 1  # mini-batches: how often it is evaluated in a run
    metrics: tuple = ()
    held_out: tuple | None = None
    start: Callable | None = None  # (model, seed) -> values of the trainable variables
    measured: str = "loss"
    momentum: tuple = (0.9, 0.97, 0.99)  # what momentum's decay is tuned over
    beta_1: tuple = (0.9, 0.99)  # the same for Adam
    game: bool = False  # whether a part of the weights ascends


def glorot_uniform(model, seed):
    """Weights as Keras draws them, from NumPy's generator, the same on every backend."""
    rng = np.random.default_rng(seed)
    for v in model.trainable_variables:
        limit = np.sqrt(6 / sum(v.shape)) if len(v.shape) == 2 else 0.0
        yield rng.uniform(-limit, limit, v.shape).astype("float32")


def standard_normal(model, seed):
    rng = np.random.default_rng(seed)
    for v in model.trainable_variables:
        yield rng.normal(size=v.shape).astype("float32")


class Net(Recording, kc.Model):
    """A functional model."""


def dense_net(sizes, activation="tanh", cls=Net):
    inputs = keras.Input((sizes[0],))
    h = inputs
    for units in sizes[1:-1]:
        h = keras.layers.Dense(units, activation=activation)(h)
    return cls(inputs, keras.layers.Dense(sizes[-1])(h))


# ------------------------------------------------------------------- classification of digits


@functools.cache
def digits():
    data = load_digits()
    x, y = (data.data / 16).astype("float32"), data.target
    order = np.random.default_rng(0).permutation(len(x))
    training, held_out = order[360:], order[:360]
    return (x[training], y[training]), (x[held_out], y[held_out])


def digits_task(title, budget, **kwargs):
    (x, y), held_out = digits()
    return Task(
        title,
        lambda: dense_net([64, 32, 10]),
        x,
        y,
        budget,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        held_out=held_out,
        start=glorot_uniform,
        **kwargs,
    )


def digits_mini_batches():
    return digits_task(
        "digits, mini-batches of 64", 1200, batch_size=64, epochs=24, metrics=("accuracy",)
    )


def digits_full_batch():
    return digits_task("digits, full batch", 600)


# ------------------------------------------------------------------- regression


def least_squares():
    """Eigenvalues of the Hessian from 2e-4 to 2, evenly in their logarithm."""
    rng, n, samples = np.random.default_rng(0), 50, 200
    u, _ = np.linalg.qr(rng.normal(size=(samples, n)))
    v, _ = np.linalg.qr(rng.normal(size=(n, n)))
    x = np.sqrt(samples) * u * np.logspace(-2, 0, n) @ v.T
    y = x @ rng.normal(size=(n, 1))

    def model():
        inputs = keras.Input((n,))
        return Net(inputs, keras.layers.Dense(1, use_bias=False)(inputs))

    return Task(
        "least squares, condition number 1e4",
        model,
        x.astype("float32"),
        y.astype("float32"),
        1000,
        start=standard_normal,
    )


def deep_tanh():
    x = np.linspace(-1, 1, 128, dtype="float32")[:, None]
    y = np.sin(2 * np.pi * x)
    sizes = [1, *[8] * 8, 1]
    return Task("deep narrow tanh net", lambda: dense_net(sizes), x, y, 2000, start=glorot_uniform)


# ------------------------------------------------------------------- a differential equation


class PoissonNet(Recording, kc.Model):
    """`u'' ` of `u(x) = (1 - x * x) n(x)`, zero at both ends; `n` is a tanh net.

    The derivatives of `n` by `x` go forward through the layers, beside the values.
    """

    def __init__(self, units=20, hidden=2):
        super().__init__()
        self.hidden = [keras.layers.Dense(units) for _ in range(hidden)]
        self.last = keras.layers.Dense(1)

    def call(self, x):
        value, first, second = x, ops.ones_like(x), ops.zeros_like(x)
        for layer in self.hidden:
            value, first, second = (
                ops.tanh(layer(value)),
                first @ layer.kernel,
                second @ layer.kernel,
            )
            slope = 1 - value * value
            second = slope * (second - 2 * value * first * first)
            first = slope * first
        value, first, second = self.last(value), first @ self.last.kernel, second @ self.last.kernel
        return (1 - x * x) * second - 4 * x * first - 2 * value


def poisson():
    x = np.linspace(-1, 1, 64, dtype="float32")[:, None]
    y = -np.square(np.float32(np.pi)) * np.sin(np.pi * x)  # u'' of u = sin(pi x)

    def model():
        net = PoissonNet()
        net(x)  # builds it
        return net

    return Task("Poisson's equation, physics-informed net", model, x, y, 2000, start=glorot_uniform)


DESCENTS = {
    "digits_mini_batches": digits_mini_batches,
    "digits_full_batch": digits_full_batch,
    "least_squares": least_squares,
    "deep_tanh": deep_tanh,
    "poisson": poisson,
}
