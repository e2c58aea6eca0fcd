"""Numbers that steer a loop, as `backend.scalars` has them: how they are compared."""

from keras_cool.backend import scalars


def smaller(a, b):
    """Returns the smaller of two numbers; `b` if one is not a number."""
    return scalars.where(a < b, a, b)


def larger(a, b):
    """Returns the larger of two numbers; `b` if one is not a number."""
    return scalars.where(a > b, a, b)


def first_case(*cases):
    """Returns the whole number of the first of some cases that holds, or 0.

    Args:
        cases: Pairs of a condition and a whole number.
    """
    found = scalars.number(0, "int32")
    for holds, number in reversed(cases):
        found = scalars.where(holds, scalars.number(number, "int32"), found)
    return found
