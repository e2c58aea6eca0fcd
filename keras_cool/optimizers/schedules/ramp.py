"""Ramps from 0 to 1, the building blocks of the schedules, and the checks of their arguments."""

import math
from numbers import Integral, Real

import keras
from keras import ops


def as_rate(value):
    """Returns a learning rate as a scalar tensor, in at least float32, which can count steps."""
    dtype = keras.backend.standardize_dtype(getattr(value, "dtype", None))
    return ops.convert_to_tensor(value, "float64" if dtype == "float64" else "float32")


def linear(p):
    """Returns `p` itself, a tensor between 0 and 1."""
    return p


def cosine(p):
    """Returns half a period of a cosine: flat at 0 and at 1."""
    return ops.square(ops.sin(p * (math.pi / 2)))  # (1 - cos(pi p)) / 2, exact near 0 as well


RAMPS = {"linear": linear, "cosine": cosine}


def check_number(schedule, argument, value, lowest=0.0, highest=math.inf):
    """Raises an error if `value` is not a number between `lowest` and `highest`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"`{argument}` of {type(schedule).__name__} is a number. It was given {value!r} of "
            f"type {type(value).__name__}."
        )
    if not lowest <= value <= highest:
        bounds = f"at least {lowest}" if highest == math.inf else f"from {lowest} to {highest}"
        raise ValueError(
            f"`{argument}` of {type(schedule).__name__} is {bounds}. It was given {value!r}."
        )


def check_steps(schedule, steps):
    """Raises an error if `steps` is not a positive integer."""
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
        raise ValueError(
            f"`steps` of {type(schedule).__name__} is a number of updates, a positive integer: "
            "epochs * math.ceil(samples / batch_size), divided by the `steps` of "
            f"`keras_cool.optimizers.Accumulate` if there is one. It was given {steps!r}."
        )


def check_shape(schedule, shape, shapes):
    """Raises an error if `shape` is none of the `shapes`."""
    if shape not in shapes:
        raise ValueError(
            f"`shape` of {type(schedule).__name__} is {' or '.join(map(repr, shapes))}. It was "
            f"given {shape!r}."
        )
