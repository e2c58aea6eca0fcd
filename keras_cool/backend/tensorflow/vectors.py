"""TensorFlow: lists of tensors as one long vector, and rows of a matrix."""

import math

import tensorflow as tf


def flattened(tensors, dtype):
    """Returns the entries of a list of tensors as one vector of the dtype."""
    return tf.concat([tf.cast(tf.reshape(t, (-1,)), dtype) for t in tensors], 0)


def unflattened(vector, like):
    """Returns the entries of a vector as a list of tensors of the shapes and dtypes of `like`."""
    parts = tf.split(vector, [math.prod(t.shape) for t in like])
    return [tf.cast(tf.reshape(p, t.shape), t.dtype) for p, t in zip(parts, like, strict=True)]


def packed(tensors):
    """Returns a list of tensors in the form in which a loop combines them fastest: as it is."""
    return list(tensors)


def unpacked(tensors, like):
    """Returns the list that was `packed`; `like` has its shapes and dtypes."""
    return list(tensors)


def with_row(matrix, place, row):
    """Returns a matrix with another row at `place`; it may take the memory of the given one."""
    return tf.tensor_scatter_nd_update(matrix, [[place]], [row])


def inner(a, b):
    """Returns the inner product of two vectors."""
    return tf.tensordot(a, b, 1)


def largest(a):
    """Returns the largest absolute value in a vector."""
    return tf.reduce_max(tf.abs(a))


def own(tensor):
    """Returns a copy, whose memory `with_row` may take: TensorFlow makes one where it has to."""
    return tf.convert_to_tensor(tensor)


def product(matrix, vector):
    """Returns the product of a matrix and a vector."""
    return tf.linalg.matvec(matrix, vector)


def identity_like(matrix):
    """Returns the identity of the size of a square matrix."""
    return tf.eye(matrix.shape[0], dtype=matrix.dtype)


def with_products(matrix, scale, pairs):
    """Returns `scale * matrix` and the sum of the outer products of pairs of vectors; it may take
    the memory of the matrix."""
    return scale * matrix + sum(column[:, None] * row for column, row in pairs)


def combined(factors, rows, factor, vector):
    """Returns the sum of the rows of a matrix times factors, and of a vector times one; factors are
    arrays of `scalars.arrays`."""
    return factor * vector + tf.linalg.matvec(rows, factors, transpose_a=True)


def solved(matrix, shift, vector):
    """Returns the solution `x` of `(matrix + shift) x = vector`, of a symmetric matrix without
    negative eigenvalues and a number of `scalars`; not finite where rounding keeps it from one."""
    shifted = matrix + shift * tf.eye(tf.shape(matrix)[0], dtype=matrix.dtype)
    # A Cholesky factor costs half as much, and ends training where there is none.
    return tf.linalg.solve(shifted, vector[:, None])[:, 0]
