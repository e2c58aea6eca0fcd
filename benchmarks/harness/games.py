"""Games of two: tasks in which a part of the weights raises the loss that the others lower."""

import keras
import numpy as np
from keras import ops

import keras_cool as kc
from harness.recorded_training import Recording
from harness.tasks import Task, dense_net, glorot_uniform, standard_normal

# What momentum and Adam are tuned over: what rotates bears less momentum.
GAME_SETTINGS = {"game": True, "momentum": (0.5, 0.9), "beta_1": (0.0, 0.5, 0.9)}


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
        self.add_loss(ops.sum(kc.reverse_gradient(self.multipliers.value) * violation))
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
        "constrained least squares",
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
        made = kc.reverse_gradient(self.generator(self.noise))
        return self.critic(ops.concatenate([real, made]))

    def measure(self, loss):
        return self.distance(self.generator(self.noise))


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
    mean, second = map(ops.convert_to_tensor, (real.mean(0), real.T @ real / n))

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


GAMES = {
    "constrained": constrained_least_squares,
    "wasserstein_gan": wasserstein_gan,
    "gan_on_a_ring": gan_on_a_ring,
}
