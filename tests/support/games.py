"""A small game of two players whose vector field and solution are known in NumPy."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

import keras_cool as kc

RNG = np.random.default_rng(5)


class Bilinear(NamedTuple):
    """`x' A y + b' x + c' y`: x lowers it and y raises it. It rotates, and has one solution."""

    a: np.ndarray = np.array([[1.0, 0.3], [-0.2, 0.8]])
    b: np.ndarray = RNG.normal(size=2)
    c: np.ndarray = RNG.normal(size=2)
    start: np.ndarray = RNG.normal(size=4)

    def field(self, p):
        """What each player descends."""
        x, y = p[:2], p[2:]
        return np.concatenate([self.a @ y + self.b, -(self.a.T @ x + self.c)])

    @property
    def solution(self):
        x, y = np.linalg.solve(self.a.T, -self.c), np.linalg.solve(self.a, -self.b)
        return np.concatenate([x, y])


GAME = Bilinear()


class BilinearModel(kc.Model):
    """The game as a model: its output is the loss."""

    def __init__(self):
        super().__init__()
        self.x = self.add_weight(shape=(2,), name="x")
        self.y = self.add_weight(shape=(2,), name="y")

    def call(self, inputs):
        x, y = self.x.value, kc.reverse_gradient(self.y.value)
        a, b, c = (ops.cast(t, x.dtype) for t in (GAME.a, GAME.b, GAME.c))
        loss = ops.sum(x * ops.matmul(a, y)) + ops.sum(b * x) + ops.sum(c * y)
        return loss * (1 + 0 * inputs)


def output(y_true, y_pred):
    return y_pred


def compiled_game(optimizer, **arguments):
    model = BilinearModel()
    model.compile(optimizer, loss=output, **arguments)
    model.build((None, 1))
    model.set_weights([GAME.start[:2], GAME.start[2:]])
    return model


def train_game(model, steps):
    zeros = keras.ops.zeros((steps, 1))
    return model.fit(zeros, zeros, batch_size=1, verbose=0).history
