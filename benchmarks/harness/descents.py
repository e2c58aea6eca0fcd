"""Descents: the tasks in which all weights lower one loss."""

import functools

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits

import keras_cool as kc
from harness.recorded_training import Recording
from harness.tasks import Net, Task, dense_net, glorot_uniform, standard_normal

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
