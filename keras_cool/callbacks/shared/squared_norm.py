"""The squared norm of a list of tensors, in float32 or float64, where it is wanted."""

from keras import ops

from keras_cool import backend
from keras_cool.float64 import measured_dtype
from keras_cool.gradients import densify


def squared_norm(tensors):
    """Returns the sum of the squares of all entries, a scalar tensor of the `measured_dtype`.

    Args:
        tensors: List of tensors; `IndexedSlices` of TensorFlow's are made dense.
    """
    return sum((_squared_norm(densify(t, t)) for t in tensors), ops.zeros((), measured_dtype()))


def squared_norm_if(condition, tensors):
    """Returns the squared norm if `condition` is true, and 0 without computing it otherwise.

    Args:
        condition: Scalar boolean tensor.
        tensors: List of tensors.
    """
    return ops.cond(
        condition, lambda: squared_norm(tensors), lambda: ops.zeros((), measured_dtype())
    )


def squared_norm_of_part_if(condition, tensors):
    """Returns the squared norm of the gradients of a micro-batch if `condition` is true, else 0.

    Args:
        condition: Scalar boolean tensor.
        tensors: List of tensors, or `None` where there is none.
    """
    tensors = [t for t in tensors if t is not None]
    return backend.loops.scalar_of_microbatch_if(
        condition, lambda: squared_norm(tensors), measured_dtype()
    )


def _squared_norm(tensor):
    tensor = ops.cast(tensor, measured_dtype())
    # A product of all axes with themselves: one pass over the memory, without the squares in it.
    return ops.tensordot(tensor, tensor, len(tensor.shape))
