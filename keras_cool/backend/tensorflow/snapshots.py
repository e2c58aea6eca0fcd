"""TensorFlow: copies of the state of training, put back later."""

import contextlib

import numpy as np
import tensorflow as tf


class SameRandomNumbers(contextlib.nullcontext):
    """Nothing to do: all random numbers come from seeds that Keras' variables hold."""

    def were_drawn(self):
        """Whether random numbers were drawn that no variable tells of: never."""
        return False


def keeping_mode(model):
    """A context in which the model predicts or is evaluated; nothing to put back after it."""
    return contextlib.nullcontext()


def further_state(model):
    """The state of training that no Keras variable holds: none."""
    return []


def copies(variables):
    """The values of variables, those of all replicas one after another. Outside of a step.

    A tensor that is read keeps its bits: TensorFlow writes to a new buffer while one is held.
    """
    return [tf.identity(part) for part in _parts(variables)]


def assign_copies(variables, values):
    """Assigns to variables what `copies` made of them, as it was or `as_bytes`."""
    for part, value in zip(_parts(variables), values, strict=True):
        if isinstance(value, np.ndarray):
            value = value.view(part.dtype.as_numpy_dtype).reshape(part.shape)
        part.assign(value)


def _parts(variables):
    """The TensorFlow variables that hold the values, one for each replica."""
    parts = []
    for variable in variables:
        strategy = getattr(variable.value, "distribute_strategy", None)
        held = variable.value
        parts += [held] if strategy is None else strategy.experimental_local_results(held)
    return parts


def as_bytes(value):
    """One of the `copies` as a NumPy array of its bytes."""
    return np.array(value.numpy(), value.dtype.as_numpy_dtype).reshape(-1).view("uint8")


def separate(variables):
    """Nothing to do: an assignment copies."""


def random_state():
    """The state of the backend's own random generators."""
    return tf.random.get_global_generator().state.numpy()


def set_random_state(state):
    """Puts back what `random_state` gave."""
    tf.random.get_global_generator().state.assign(state)


def running_mean(mean, variables, count):
    """The mean of the values that variables have had, the present ones as the last of `count`.

    Args, returns: As in `keras_cool/backend/jax/snapshots.py`.
    """
    values = copies(variables)
    if mean is None:
        return [tf.cast(v, tf.float32) if v.dtype.size < 4 else v for v in values]
    pairs = zip(mean, values, strict=True)
    return [m + (tf.cast(v, m.dtype) - m) / tf.cast(count, m.dtype) for m, v in pairs]
