"""A task that optimizers are compared on: model, loss, batches, start and budget."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_cool as kc
from harness.recorded_training import Recording


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
