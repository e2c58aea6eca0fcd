"""`WeightedSum`: a weighted sum of lists of tensors, with few passes over the memory."""

import math

import keras
from keras import ops

from keras_cool import backend


class WeightedSum:
    r"""Adds up \(\sum_k w_k t_k\) over lists of tensors \(t_k\), one after the other.

    The sum is stored as \(w_1 (t_1 + \tfrac{w_2}{w_1} t_2 + \dots)\): a ratio of one needs no
    multiplication, and the first list is not copied and not changed. It holds at most one copy.
    """

    def __init__(self):
        self._tensors = []
        self._weight = 0.0
        self._fresh = False

    def add(self, weight, tensors):
        """Adds `weight * tensors`, a float times a list of tensors. Zero adds nothing."""
        if weight == 0:
            return
        if not self._tensors:
            self._weight, self._tensors = weight, list(tensors)
            return
        ratio = weight / self._weight
        into = self._tensors if self._fresh else None
        self._tensors = backend.updates.add_scaled(self._tensors, ratio, tensors, into)
        self._fresh = True

    def tensors(self):
        """Returns the sum, a list of tensors that nothing else refers to."""
        if self._fresh:
            for i in range(len(self._tensors) if self._weight != 1 else 0):
                self._tensors[i] *= self._weight
        else:
            self._tensors = [self._weight * t for t in self._tensors]
        self._weight, self._fresh = 1.0, True
        return self._tensors

    def moved_from(self, point, step, preconditioner=None):
        """Returns `point - step * preconditioner * sum`, and empties the sum.

        Args:
            point: List of tensors.
            step: Scalar tensor.
            preconditioner: List of tensors shaped like the point, the diagonal, or `None`.
        """
        terms, fresh = self._tensors, self._fresh
        if preconditioner is not None:
            terms, fresh = [d * t for d, t in zip(preconditioner, terms, strict=True)], True
        self._tensors = []
        return backend.updates.add_scaled(
            point, -self._weight * step, terms, terms if fresh else None
        )


def moved(point, step, tensors, preconditioner=None):
    """Returns `point - step * preconditioner * tensors`, and does not change `tensors`."""
    total = WeightedSum()
    total.add(1.0, tensors)
    return total.moved_from(point, step, preconditioner)


def zero_if_finite(tensors):
    """Returns a scalar: 0 if all entries of the tensors are finite, else NaN."""
    total = 0.0
    for t in tensors:
        if "16" in keras.backend.standardize_dtype(t.dtype):
            t = ops.cast(t, "float32")  # in 16 bits the sum of finite entries can overflow
        total += ops.cast(0.0 * ops.sum(t), "float32")
    return total


def add_to_smallest(tensors, scalar):
    """Adds a scalar to the smallest tensor of a list, in place: NaN makes the list not finite."""
    if isinstance(scalar, float) and scalar == 0:
        return tensors
    smallest = min(range(len(tensors)), key=lambda i: math.prod(tensors[i].shape))
    tensors[smallest] = tensors[smallest] + ops.cast(scalar, tensors[smallest].dtype)
    return tensors
