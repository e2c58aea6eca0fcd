"""JAX: rows of tables, read and written in place in a step that donates its state."""

import jax
import jax.numpy as jnp

from keras_cool.backend.jax.writes import Write
from keras_cool.backend.row_sparse import RowSparse

jax.tree_util.register_pytree_node(
    RowSparse,
    lambda gradient: ((gradient.indices, gradient.values), gradient.shape),
    lambda shape, leaves: _unflattened(shape, *leaves),
)


def _unflattened(shape, indices, values):
    gradient = object.__new__(RowSparse)  # what JAX puts into its place may be no tensors
    gradient.indices, gradient.values, gradient.shape = indices, values, shape
    return gradient


def merged(gradient):
    """Returns a `RowSparse` gradient with each index once.

    Its size is that of the given one: where rows came several times, there are indices outside of
    the table, with values of zero.
    """
    count, rows = gradient.indices.shape[0], gradient.shape[0]
    indices, places = jnp.unique(
        _inside(gradient.indices, rows), return_inverse=True, size=count, fill_value=rows
    )
    values = jnp.zeros_like(gradient.values).at[places].add(gradient.values)
    return RowSparse(indices, values, gradient.shape)


def take(variable, indices):
    """Returns rows of a variable."""
    return jnp.take(variable.value, indices, axis=0, mode="clip")


def put(variable, indices, rows):
    """Assigns rows to a variable, each once."""
    Write(variable, indices, rows, adds=False).do()


def add(variable, indices, rows):
    """Adds rows to a variable; some may come several times."""
    Write(variable, _inside(indices, variable.shape[0]), rows, adds=True).do()


def gathered(value, indices):
    """Returns rows of the value of a table as `keras.ops.take`, or `None`: that is as good."""
    return


def _inside(indices, rows):
    """The indices, with the same one, past the end, for all that are outside of a table."""
    return jnp.where((indices >= 0) & (indices < rows), indices, rows)
