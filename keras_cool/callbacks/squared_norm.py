"""The squared norm of a list of tensors, in float32, where it is wanted."""

from keras import ops

from keras_cool.gradients import densify


def squared_norm(tensors):
    """Gives the sum of the squares of all entries, a scalar float32 tensor.

    Args:
        tensors: List of tensors; `IndexedSlices` of TensorFlow's are made dense.
    """
    squares = (ops.sum(ops.square(ops.cast(densify(t, t), "float32"))) for t in tensors)
    return sum(squares, ops.zeros((), "float32"))


def squared_norm_if(condition, tensors):
    """Gives the squared norm if `condition` is true and 0 otherwise, without computing it then.

    Args:
        condition: Scalar boolean tensor.
        tensors: List of tensors, or `None` where there is none.
    """
    tensors = [t for t in tensors if t is not None]
    return ops.cond(condition, lambda: squared_norm(tensors), lambda: ops.zeros((), "float32"))
