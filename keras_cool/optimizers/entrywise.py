"""The larger and the smaller of two tensors, in their own precision."""

from keras import ops

# `ops.maximum` and `ops.minimum` return float32 on PyTorch for any arguments.


def larger(a, b):
    """Returns the larger of two tensors, entry by entry."""
    return ops.where(a > b, a, b)


def smaller(a, b):
    """Returns the smaller of two tensors, entry by entry."""
    return ops.where(a < b, a, b)
