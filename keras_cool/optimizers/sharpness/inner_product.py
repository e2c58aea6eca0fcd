"""Inner product and norm of lists of tensors, taken as one long vector each."""

import keras
from keras import ops


def inner_product(a, b):
    """Returns the inner product of two lists of tensors: a scalar, of 32 bits at least."""
    return sum(ops.sum(x * y) for x, y in zip(map(_wide, a), map(_wide, b), strict=True))


def norm(a):
    """Returns the Euclidean norm of a list of tensors: a scalar, of 32 bits at least."""
    return ops.sqrt(inner_product(a, a))


def quotient(a, b):
    """Returns `a / b`, or 0 where `b` is 0; NaN stays NaN."""
    return ops.where(b == 0, ops.zeros_like(a), a / ops.where(b == 0, ops.ones_like(b), b))


def _wide(tensor):
    is_short = "16" in keras.backend.standardize_dtype(tensor.dtype)
    return ops.cast(tensor, "float32") if is_short else tensor
