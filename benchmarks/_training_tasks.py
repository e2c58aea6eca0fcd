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


# ------------------------------------------------------------------- games of two


def reversed_gradient(tensor):
    """The tensor, with the gradient of its negative: what it depends on ascends, not descends.

    Ganin and others, 2016, "Domain-adversarial training of neural networks".
    """
    return 2 * ops.stop_gradient(tensor) - tensor


class Lagrangian(Recording, kc.Model):
    """Linear regression under equality constraints: descent in the weights, ascent in the
    multipliers of the constraints."""

    def __init__(self, constraints, values, solution):
        super().__init__()
        self.constraints, self.values = map(ops.convert_to_tensor, (constraints, values))
        self.solution = ops.convert_to_tensor(solution)
        self.coefficients = self.add_weight(shape=solution.shape, name="coefficients")
        self.multipliers = self.add_weight(shape=values.shape, name="multipliers")

    def call(self, x):
        coefficients = self.coefficients.value
        violation = ops.matmul(self.constraints, coefficients) - self.values
        self.add_loss(ops.sum(reversed_gradient(self.multipliers.value) * violation))
        return ops.matmul(x, coefficients)

    def measure(self, loss):
        return ops.mean(ops.square(self.coefficients.value - self.solution))


def constrained_least_squares():
    rng, n, constraints, samples = np.random.default_rng(0), 20, 5, 60
    x, y = rng.normal(size=(samples, n)), rng.normal(size=(samples, 1))
    c, d = rng.normal(size=(constraints, n)), rng.normal(size=(constraints, 1))
    # The conditions of Karush, Kuhn and Tucker, of the mean squared error.
    matrix = np.block([[2 * x.T @ x / samples, c.T], [c, np.zeros((constraints, constraints))]])
    solution = np.linalg.solve(matrix, np.concatenate([2 * x.T @ y / samples, d]))[:n]
    x, y, c, d, solution = (a.astype("float32") for a in (x, y, c, d, solution))

    def model():
        net = Lagrangian(c, d, solution)
        net(x)  # builds it
        return net

    return Task(
        "least squares under constraints, with multipliers",
        model,
        x,
        y,
        1000,
        start=standard_normal,
        measured="squared error of the weights",
        **GAME_SETTINGS,
    )


class Adversaries(Recording, kc.Model):
    """A generator and a critic of one loss, which the critic lowers and the generator raises.

    The output is what the critic says of the real samples, then of the generated ones.
    """

    def __init__(self, generator, critic, noise, distance):
        super().__init__()
        self.generator, self.critic = generator, critic
        self.noise, self.distance = noise, distance

    def call(self, real):
        made = reversed_gradient(self.generator(self.noise))
        return self.critic(ops.concatenate([real, made]))

    def measure(self, loss):
        return self.distance(self.generator(self.noise))


GAME_SETTINGS = {"momentum": (0.5, 0.9), "beta_1": (0.0, 0.5, 0.9)}


class QuadraticForm(keras.layers.Layer):
    """`x' W x + v' x`, the critic that sees means and covariances."""

    def __init__(self, penalty):
        super().__init__()
        regularizer = keras.regularizers.L2(penalty)
        self.w = self.add_weight(shape=(2, 2), initializer="zeros", regularizer=regularizer)
        self.v = self.add_weight(shape=(2, 1), initializer="zeros", regularizer=regularizer)

    def call(self, x):
        return ops.sum(ops.matmul(x, self.w) * x, axis=1, keepdims=True) + ops.matmul(x, self.v)


def plus_and_minus(sign, critic):
    return sign * critic


def wasserstein_gan():
    """A Gaussian's mean and covariance, as in Daskalakis and others, 2018, "Training GANs with
    optimism"; the critic has a small penalty."""
    rng, n = np.random.default_rng(0), 256
    mixing = np.array([[1.0, 0.5], [0.0, 0.7]])
    real = (rng.normal(size=(n, 2)) @ mixing + [1, -1]).astype("float32")
    noise = rng.normal(size=(n, 2)).astype("float32")
    mean, second = real.mean(0), real.T @ real / n

    def distance(made):
        off = ops.sum(ops.square(ops.mean(made, axis=0) - mean))
        return off + ops.sum(ops.square(ops.matmul(ops.transpose(made), made) / n - second))

    def model():
        generator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        net = Adversaries(generator, QuadraticForm(0.025), noise, distance)
        net(real)  # builds it
        return net

    return Task(
        "Wasserstein GAN of a Gaussian",
        model,
        real,
        np.repeat(np.float32([[-1], [1]]), n, axis=0),
        2000,
        loss=plus_and_minus,
        start=glorot_uniform,
        measured="squared error of the moments",
        **GAME_SETTINGS,
    )


def gan_on_a_ring():
    """Eight clusters on a ring and nets on both sides, as in Metz and others, 2017, "Unrolled
    generative adversarial networks"; the distance is the energy distance of the two samples."""
    rng, n = np.random.default_rng(0), 64
    angle = np.arange(n) % 8 * np.pi / 4
    real = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.05 * rng.normal(size=(n, 2))
    real, noise = real.astype("float32"), rng.normal(size=(n, 4)).astype("float32")

    def mean_distance(a, b):
        square = ops.sum(ops.square(a[:, None] - b[None]), axis=-1)
        return ops.mean(ops.sqrt(square + 1e-12))

    def distance(made):
        fixed = ops.convert_to_tensor(real)
        inside = mean_distance(made, made) + mean_distance(fixed, fixed)
        return 2 * mean_distance(made, fixed) - inside

    def model():
        nets = (dense_net(sizes, cls=keras.Model) for sizes in ([4, 16, 16, 2], [2, 16, 16, 1]))
        net = Adversaries(*nets, noise, distance)
        net(real)  # builds it
        return net

    return Task(
        "GAN of eight clusters on a ring",
        model,
        real,
        np.repeat(np.float32([[1], [0]]), n, axis=0),
        1500,
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        start=glorot_uniform,
        measured="energy distance",
        **GAME_SETTINGS,
    )


DESCENTS = {
    "digits_mini_batches": digits_mini_batches,
    "digits_full_batch": digits_full_batch,
    "least_squares": least_squares,
    "deep_tanh": deep_tanh,
    "poisson": poisson,
}
GAMES = {
    "constrained": constrained_least_squares,
    "wasserstein_gan": wasserstein_gan,
    "gan_on_a_ring": gan_on_a_ring,
}
