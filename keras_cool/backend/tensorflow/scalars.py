"""TensorFlow: numbers and small arrays that steer a loop, as tensors."""

import tensorflow as tf
from keras import ops


def known(*tensors):
    """Returns scalar tensors as numbers that a loop is steered by: as they are."""
    return list(tensors)


def known_count(tensor):
    """Returns a scalar integer tensor as such a number: as it is."""
    return tf.convert_to_tensor(tensor)


def number(value, dtype):
    """Returns a Python number as such a number, of the dtype where it has one."""
    return tf.constant(value, dtype)


def where(condition, a, b):
    """Returns `a` if the condition holds, and `b` otherwise; tensors too."""
    return tf.where(condition, a, b)


def divided(a, b):
    """Returns `a / b`, which is not finite where `b` is 0."""
    return a / b


def square_root(a):
    """Returns the square root; NaN of a negative number."""
    return tf.sqrt(a)


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
logical_not = tf.logical_not
is_finite = tf.math.is_finite
