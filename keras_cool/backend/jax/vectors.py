"""JAX: lists of tensors as one long vector, and rows of a matrix."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def flattened(tensors, dtype):
    """Returns the entries of a list of tensors as one vector of the dtype."""
    return jnp.concatenate([jnp.ravel(t).astype(dtype) for t in tensors])


def unflattened(vector, like):
    """Returns the entries of a vector as a list of tensors of the shapes and dtypes of `like`."""
    ends = np.cumsum([math.prod(t.shape) for t in like])[:-1].tolist()
    parts = jnp.split(vector, ends)
    return [p.reshape(t.shape).astype(t.dtype) for p, t in zip(parts, like, strict=True)]


def packed(tensors):
    """Returns a list of tensors in the form in which a loop combines them fastest: as it is."""
    return list(tensors)


def unpacked(tensors, like):
    """Returns the list that was `packed`; `like` has its shapes and dtypes."""
    return list(tensors)


def with_row(matrix, place, row):
    """Returns a matrix with another row at `place`; it may take the memory of the given one."""
    return jax.lax.dynamic_update_index_in_dim(matrix, row, place, 0)


def inner(a, b):
    """Returns the inner product of two vectors."""
    return jnp.dot(a, b)


def largest(a):
    """Returns the largest absolute value in a vector."""
    return jnp.max(jnp.abs(a))


def own(tensor):
    """Returns a copy, whose memory `with_row` may take: the compiler makes one where it has to."""
    return tensor


def product(matrix, vector):
    """Returns the product of a matrix and a vector."""
    return matrix @ vector


def identity_like(matrix):
    """Returns the identity of the size of a square matrix."""
    return jnp.eye(matrix.shape[0], dtype=matrix.dtype)


def with_products(matrix, scale, pairs):
    """Returns `scale * matrix` and the sum of the outer products of pairs of vectors; it may take
    the memory of the matrix."""
    return scale * matrix + sum(column[:, None] * row for column, row in pairs)


def combined(factors, rows, factor, vector):
    """Returns the sum of the rows of a matrix times factors, and of a vector times one; factors are
    arrays of `scalars.arrays`."""
    return factor * vector + factors @ rows


def solved(matrix, shift, vector):
    """Returns the solution `x` of `(matrix + shift) x = vector`, of a symmetric matrix without
    negative eigenvalues and a number of `scalars`; not finite where rounding keeps it from one."""
    shifted = matrix + shift * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(shifted), vector)
