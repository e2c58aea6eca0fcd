"""Small training problems whose gradient flow is known in NumPy, and how to train on them."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from scipy.integrate import solve_ivp

import keras_cool as kc

RNG = np.random.default_rng(3)


class SumLoss(keras.losses.Loss):
    """The sum of a function's values."""

    def __init__(self, function):
        super().__init__(reduction="sum")
        self.function = function

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred)


def linear(units, activation=None):
    return keras.layers.Dense(units, activation, use_bias=False)


def half_squared(y, prediction):
    return ops.square(prediction - y) / 2


def cross_entropy(y, logits):
    return ops.log(1 + ops.exp(logits)) - y * logits


def poisson(y, logits):
    return ops.exp(logits) - y * logits


class Net(NamedTuple):
    """A tanh net with one hidden layer and no bias: a nonlinear flow."""

    x: np.ndarray = RNG.normal(size=(12, 3)) / 3
    y: np.ndarray = RNG.normal(size=(12, 1)) / 3
    start: np.ndarray = 0.6 * RNG.normal(size=20)

    def gradient(self, p):
        w1, w2 = p[:15].reshape(3, 5), p[15:].reshape(5, 1)
        hidden = np.tanh(self.x @ w1)
        error = hidden @ w2 - self.y
        g1 = self.x.T @ ((error @ w2.T) * (1 - hidden**2))
        return np.concatenate([g1.ravel(), (hidden.T @ error).ravel()])

    def model(self):
        inputs = keras.Input((3,))
        return kc.Model(inputs, linear(1)(linear(5, "tanh")(inputs)))

    loss = staticmethod(half_squared)


class Logistic(NamedTuple):
    """Logistic regression on inputs of unlike size."""

    x: np.ndarray = RNG.normal(size=(30, 4)) * np.array([1.0, 2.0, 0.3, 1.0]) / 5
    y: np.ndarray = RNG.integers(0, 2, size=(30, 1)).astype("float64")
    start: np.ndarray = np.array([2.0, -3.0, 1.0, 0.5])

    def gradient(self, p):
        return self.x.T @ (1 / (1 + np.exp(-self.x @ p)) - self.y[:, 0])

    def model(self):
        inputs = keras.Input((4,))
        return kc.Model(inputs, linear(1)(inputs))

    loss = staticmethod(cross_entropy)


COUNTS = np.random.default_rng(1)


class Poisson(NamedTuple):
    """Poisson regression: nonlinear, and in the range of step sizes where orders show cleanly."""

    x: np.ndarray = COUNTS.normal(size=(10, 3)) * 0.4
    y: np.ndarray = COUNTS.poisson(2.0, size=(10, 1)).astype("float64")
    start: np.ndarray = COUNTS.normal(size=3)

    def gradient(self, p):
        return self.x.T @ (np.exp(self.x @ p) - self.y[:, 0])

    def model(self):
        inputs = keras.Input((3,))
        return kc.Model(inputs, linear(1)(inputs))

    loss = staticmethod(poisson)


class Quadratic(NamedTuple):
    """Least squares with the eigenvalues 0.1, 1 and 10: mildly stiff."""

    x: np.ndarray = np.diag(np.sqrt([0.1, 1.0, 10.0]))
    y: np.ndarray = np.zeros((3, 1))
    start: np.ndarray = np.array([1.0, -2.0, 3.0])

    def gradient(self, p):
        return self.x.T @ (self.x @ p)

    def model(self):
        inputs = keras.Input((self.x.shape[1],))
        return kc.Model(inputs, linear(1)(inputs))

    loss = staticmethod(half_squared)


PROBLEMS = {"net": Net(), "logistic": Logistic(), "quadratic": Quadratic()}
POISSON = Poisson()


def set_weights(model, p):
    weights = []
    for w in model.weights:
        size = int(np.prod(w.shape))
        weights.append(p[:size].reshape(w.shape))
        p = p[size:]
    model.set_weights(weights)


def weights_of(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


def compiled(problem, optimizer, **arguments):
    """The problem's model at its start."""
    model = problem.model()
    set_weights(model, problem.start)
    model.compile(optimizer, loss=SumLoss(problem.loss), **arguments)
    return model


class StepLogs(keras.callbacks.Callback):
    """The logs of each step, and what had been counted after it, as lists."""

    def __init__(self):
        super().__init__()
        self.logs = {}

    def on_train_batch_end(self, batch, logs=None):
        for name, value in {**self.model.step_counts(), **logs}.items():
            self.logs.setdefault(name, []).append(float(value))


def train(model, problem, steps):
    """Takes full-batch steps, all in one epoch; returns the logs of each."""
    callback = StepLogs()
    x, y = (np.tile(a, (steps, 1)) for a in (problem.x, problem.y))
    model.fit(x, y, batch_size=len(problem.x), shuffle=False, verbose=0, callbacks=[callback])
    return {name: np.array(values) for name, values in callback.logs.items()}


def exact_flow(problem, time):
    """The gradient flow at a time, by SciPy's DOP853 to twelve digits."""
    solution = solve_ivp(
        lambda t, p: -problem.gradient(p),
        (0, time),
        problem.start,
        method="DOP853",
        rtol=1e-12,
        atol=1e-14,
    )
    return solution.y[:, -1]
