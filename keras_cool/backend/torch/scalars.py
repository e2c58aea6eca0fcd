"""PyTorch: numbers and small arrays that steer a loop, of Python and NumPy: tensors cost more."""

import math
import operator

import numpy as np
import torch


def known(*tensors):
    """Returns scalar tensors as numbers that a loop is steered by: one wait for the device."""
    return torch.stack([t.double() for t in tensors]).tolist()


def known_count(tensor):
    """Returns a scalar integer tensor as such a number."""
    return int(tensor)


def number(value, dtype):
    """Returns a Python number as such a number, of the dtype where it has one."""
    return value


def where(condition, a, b):
    """Returns `a` if the condition holds, and `b` otherwise; tensors too."""
    return a if condition else b


def divided(a, b):
    """Returns `a / b`, which is not finite where `b` is 0."""
    return a / b if b else math.nan


def square_root(a):
    """Returns the square root; NaN of a negative number."""
    return math.sqrt(a) if a >= 0 else math.nan


def power(a, exponent):
    """Returns `a ** exponent`; not finite for a number that is not positive."""
    return a**exponent if a > 0 else math.nan


def known_array(tensor):
    """Returns a small tensor as an array of `arrays`: one wait for the device."""
    return tensor.double().numpy(force=True)


def solve_triangular(a, b, lower=False):
    """Returns the solution of `a x = b`, of arrays of `arrays`; `a` is triangular."""
    return np.linalg.solve(a, b)


arrays = np  # what NumPy has for small arrays that steer a loop
logical_not = operator.not_
is_finite = math.isfinite
