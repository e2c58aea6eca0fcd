"""A table of breakpoints as a function of the epoch or of the step: piecewise constant."""

from numbers import Integral, Real

import numpy as np
from keras import ops


def checked_table(table):
    """Returns the breakpoints of a dictionary, sorted pairs of an integer and a float.

    Args:
        table: Dictionary of epochs or steps, from 0 on, and the numbers that hold from there on.

    Raises:
        ValueError: If it is empty, or a key is no integer of at least 0.
        TypeError: If a value is not a number.
    """
    keys = [k for k in table if not _is_count(k)]
    if keys or not table:
        raise ValueError(
            "A table of breakpoints has epochs or steps as its keys, integers from 0 on, for "
            f"example {{0: 0.1, 100: 0.01}}. It was given {table}."
        )
    for key, value in table.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(
                f"A table of breakpoints holds numbers. It was given {value!r} at {key}."
            )
    return sorted((int(k), float(v)) for k, v in table.items())


def value_at(pairs, count, before):
    """Returns the number that holds at `count`.

    Args:
        pairs: What `checked_table` gives.
        count: The epoch or step: an integer, or a scalar integer tensor.
        before: The number that holds before the first breakpoint.
    """
    value = before
    for start, number in pairs:
        if isinstance(count, Integral):
            value = number if count >= start else value
        else:
            value = ops.where(count >= start, number, value)
    return value


def _is_count(key):
    return isinstance(key, int | np.integer) and not isinstance(key, bool) and key >= 0
