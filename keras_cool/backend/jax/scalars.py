"""JAX: numbers and small arrays that steer a loop, as tensors."""

import jax.numpy as jnp
from keras import ops


def known(*tensors):
    """Returns scalar tensors as numbers that a loop is steered by: as they are."""
    return list(tensors)


def known_count(tensor):
    """Returns a scalar integer tensor as such a number: as it is."""
    return tensor


def number(value, dtype):
    """Returns a Python number as such a number, of the dtype where it has one."""
    return jnp.asarray(value, dtype)


def where(condition, a, b):
    """Returns `a` if the condition holds, and `b` otherwise; tensors too."""
    return jnp.where(condition, a, b)


def divided(a, b):
    """Returns `a / b`, which is not finite where `b` is 0."""
    return a / b


def square_root(a):
    """Returns the square root; NaN of a negative number."""
    return jnp.sqrt(a)


def power(a, exponent):
    """Returns `a ** exponent`; not finite for a number that is not positive."""
    return a**exponent


def known_array(tensor):
    """Returns a small tensor as an array of `arrays`: as it is."""
    return tensor


def solve_triangular(a, b, lower=False):
    """Returns the solution of `a x = b`, of arrays of `arrays`; `a` is triangular."""
    return arrays.solve_triangular(a, b, lower=lower)


arrays = ops  # what NumPy has for small arrays that steer a loop
logical_not = jnp.logical_not
is_finite = jnp.isfinite
