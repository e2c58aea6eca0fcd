"""Checks of the arguments of methods."""

import math
from numbers import Integral, Real


def count(method, name, value, least=1):
    """Returns an integer, which has to be at least 1, or `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        kind = "a positive integer" if least == 1 else f"an integer, at least {least}"
        raise ValueError(
            f"`{name}` of {method} is {kind}. It was given {value!r}. For example: "
            f"{method}({name}=10)."
        )
    return int(value)


def number(method, name, value, bound, holds):
    """Returns a finite number for which `holds(value)`, as a float; `bound` says when."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not holds(value):
        raise ValueError(
            f"`{name}` of {method} is a finite number, {bound}. It was given {value!r}."
        )
    return float(value)
