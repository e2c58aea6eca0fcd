"""`RowSparse`: the gradient of a table of which a few rows were read."""

from numbers import Integral

import keras
from keras import ops


class RowSparse:
    """The gradient of a table of which a few rows were read: their indices, and a value for each.

    It stands for a tensor that is zero in all other rows. An index may come several times; its
    values add up. `compile(row_sparse=True)` makes such gradients by automatic differentiation, and
    a `closed_form_gradient` may return them. Keras' SGD without momentum and Adagrad, and
    `keras_cool.optimizers.LazyAdam` and `LazyMomentum`, then update these rows alone.

    Example:

    >>> import keras_cool as kc
    >>> gradient = kc.RowSparse([2, 0, 2], [[1.0], [5.0], [3.0]], shape=(4, 1))
    >>> [float(entry) for entry in gradient.dense()[:, 0]]
    [5.0, 0.0, 4.0, 0.0]

    Args:
        indices: Integer tensor of any shape, the rows.
        values: Floating-point tensor, the gradients by these rows, of the shape of `indices` and
            then that of a row.
        shape: The shape of the table, a tuple of integers.

    Negative indices count from the end, as in `keras.ops.take`. Those outside of the table are an
    error on TensorFlow and PyTorch on the CPU, and left out on JAX, where `keras.ops.take` gives
    `nan` for them.

    Raises:
        ValueError: If the shapes do not fit.
        TypeError: If the indices are no integers.
    """

    def __init__(self, indices, values, shape):
        indices, values = ops.convert_to_tensor(indices), ops.convert_to_tensor(values)
        shape = tuple(shape)
        if not shape or not all(isinstance(size, Integral) for size in shape):
            raise ValueError(
                "The shape of a RowSparse gradient is that of the table, integers, for example "
                f"`layer.embeddings.shape`. It was given {shape}."
            )
        rank = len(indices.shape)
        if not _fit(tuple(values.shape), (*indices.shape, *shape[1:])):
            raise ValueError(
                "The values of a RowSparse gradient have the shape of the indices and then that of "
                f"a row. It was given indices of shape {tuple(indices.shape)}, values of shape "
                f"{tuple(values.shape)} and a table of shape {shape}: the values are to have the "
                f"shape {(*indices.shape, *shape[1:])}."
            )
        if rank != 1:
            indices, values = ops.reshape(indices, (-1,)), ops.reshape(values, (-1, *shape[1:]))
        kind = keras.backend.standardize_dtype(indices.dtype)
        if "int" not in kind:
            raise TypeError(f"The indices of a RowSparse gradient are integers. They were {kind}.")
        if kind not in ("int32", "int64"):
            indices = ops.cast(indices, "int32")
        indices = ops.where(indices < 0, indices + shape[0], indices)
        self.indices = ops.where(indices < 0, shape[0], indices)  # past the end too
        self.values, self.shape = values, shape

    @property
    def dtype(self):
        """The dtype of the values."""
        return self.values.dtype

    def with_values(self, values):
        """Returns a gradient of the same rows with other values.

        Args:
            values: Tensor, shape `(rows, ...)`.
        """
        same = object.__new__(RowSparse)
        same.indices, same.values, same.shape = self.indices, values, self.shape
        return same

    def dense(self):
        """Returns the gradient as a tensor of the table's shape."""
        return ops.scatter(ops.expand_dims(self.indices, -1), self.values, self.shape)

    def __repr__(self):
        count = self.indices.shape[0]
        return f"<RowSparse gradient of shape {self.shape} with {count} rows>"


def _fit(shape, expected):
    """Whether two shapes are the same as far as they are known."""
    return len(shape) == len(expected) and all(
        a == b for a, b in zip(shape, expected, strict=True) if a is not None and b is not None
    )


def concatenated(parts, shape):
    """Returns the sum of row-sparse gradients: `parts` are pairs of indices, of any shape, and
    values."""
    parts = [RowSparse(indices, values, shape) for indices, values in parts]
    if len(parts) == 1:
        return parts[0]
    indices = ops.concatenate([p.indices for p in parts])
    return RowSparse(indices, ops.concatenate([p.values for p in parts]), shape)


def with_rows(gradients, found, by_rows, shapes):
    """Returns gradients with those by rows in them: row-sparse where there is no other.

    Args:
        gradients: List of tensors or `None`, by whole tables and other variables.
        found: List of pairs, the place of a table in that list and the indices of its rows.
        by_rows: List of tensors or `None`, the gradients by these rows.
        shapes: List of the shapes of the gradients.
    """
    parts: dict = {}
    for (place, indices), values in zip(found, by_rows, strict=True):
        if values is not None:
            parts.setdefault(place, []).append((indices, values))
    gradients = list(gradients)
    for place, pairs in parts.items():
        rows, whole = concatenated(pairs, tuple(shapes[place])), gradients[place]
        gradients[place] = rows if whole is None else whole + rows.dense()
    return gradients
