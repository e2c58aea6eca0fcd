"""Functions with a known minimum, in `keras.ops` and in NumPy, and models whose loss they are."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits

import keras_cool as kc


class Rosenbrock(NamedTuple):
    """The sum of `100 (w[i+1] - w[i]^2)^2 + (1 - w[i])^2`, from (-1.2, 1, -1.2, ...)."""

    size: int
    target: float = 1e-10

    @property
    def start(self):
        return np.where(np.arange(self.size) % 2, 1.0, -1.2)

    def loss(self, w):
        return ops.sum(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2)

    def value_and_gradient(self, w):
        rise, gradient = w[1:] - w[:-1] ** 2, np.zeros_like(w)
        gradient[1:] += 200 * rise
        gradient[:-1] -= 400 * w[:-1] * rise + 2 * (1 - w[:-1])
        return np.sum(100 * rise**2 + (1 - w[:-1]) ** 2), gradient


class Quadratic(NamedTuple):
    """Half the sum of `c w^2`, with the `c` from 1 to the condition number."""

    size: int
    condition: float
    target: float

    @property
    def factors(self):
        return np.logspace(0, np.log10(self.condition), self.size)

    @property
    def start(self):
        return np.ones(self.size)

    def loss(self, w):
        return ops.sum(ops.convert_to_tensor(self.factors, w.dtype) * w * w) / 2

    def value_and_gradient(self, w):
        return np.sum(self.factors * w * w) / 2, self.factors * w


class Digits(NamedTuple):
    """Logistic regression on the digits, with a penalty on the weights."""

    target: float = 0.1244914423 + 1e-8  # the minimum, by SciPy with gtol=1e-9

    @property
    def start(self):
        return np.zeros(650)

    @property
    def data(self):
        x, y = load_digits(return_X_y=True)
        return np.hstack([x / 16, np.ones((len(x), 1))]), np.eye(10)[y]

    def loss(self, w):
        x, y = (ops.convert_to_tensor(a, w.dtype) for a in self.data)
        logits = ops.matmul(x, ops.reshape(w, (65, 10)))
        losses = ops.logsumexp(logits, axis=1) - ops.sum(logits * y, axis=1)
        return ops.mean(losses) + 1e-4 * ops.sum(w * w)

    def value_and_gradient(self, w):
        (x, y), w = self.data, w.reshape(65, 10)
        logits = x @ w
        largest = logits.max(axis=1, keepdims=True)
        p = np.exp(logits - largest)
        total = p.sum(axis=1, keepdims=True)
        losses = largest[:, 0] + np.log(total[:, 0]) - (logits * y).sum(axis=1)
        gradient = x.T @ (p / total - y) / len(x) + 2e-4 * w
        return losses.mean() + 1e-4 * np.sum(w * w), gradient.ravel()


class Value(keras.layers.Layer):
    """The value of a function at the layer's only weight."""

    def __init__(self, function, start):
        super().__init__()
        self.function = function
        self.w = self.add_weight(shape=start.shape, initializer="zeros", name="w")
        self.w.assign(start)

    def call(self, x):
        return self.function(ops.convert_to_tensor(self.w)) + 0 * ops.sum(x)


def model_of(function, start, optimizer, **arguments):
    """A model whose loss is `function(w)`, with the weight `w`."""
    inputs = keras.Input((1,))
    model = kc.Model(inputs, Value(function, np.asarray(start))(inputs))
    model.compile(optimizer, loss=lambda y, value: value, **arguments)
    return model


def minimise(model, epochs=1, **arguments):
    """Trains a model of `model_of`, one step an epoch; returns the logs of the epochs."""
    one = np.ones((1, 1))
    return model.fit(one, one, epochs=epochs, verbose=0, **arguments).history


class AtTarget(keras.callbacks.Callback):
    """Stops at a target, and counts the evaluations up to it where a step is one iteration."""

    def __init__(self, target):
        super().__init__()
        self.target, self.evaluations = target, None

    def on_epoch_end(self, epoch, logs):
        # The first evaluation of each step is the last one of the step before.
        if logs["loss"] <= self.target:
            self.evaluations = self._before
            self.model.stop_training = True
        self._before = logs["gradient_evaluations"] - epoch
