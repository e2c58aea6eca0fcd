"""JAX: rows of tables, read and written in place in a step that donates its state."""

import contextlib
import contextvars
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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


class Write(NamedTuple):
    """Rows that are assigned or added to a variable; those past its end are left out."""

    variable: Any
    indices: Any
    rows: Any
    adds: bool

    def do(self):
        """Writes them, or holds them back."""
        held_back = _HELD_BACK.get()
        if held_back is not None:
            held_back.append(self)
            return
        place = self.variable.value.at[self.indices]
        if self.adds:
            self.variable.assign(place.add(self.rows, mode="drop"))
        else:
            self.variable.assign(place.set(self.rows, mode="drop", unique_indices=True))

    def of_nothing(self):
        """Returns a write of as many rows, all past the end."""
        past_end = jnp.full(self.indices.shape, self.variable.shape[0], self.indices.dtype)
        return past_end, jnp.zeros(self.rows.shape, self.rows.dtype)


_HELD_BACK: contextvars.ContextVar = contextvars.ContextVar("held_back", default=None)


@contextlib.contextmanager
def held_back():
    """A context in which no rows are written. It gives the list of what is to be written after it:
    a branch of a `cond` that writes to a table would copy it."""
    writes: list = []
    token = _HELD_BACK.set(writes)
    try:
        yield writes
    finally:
        _HELD_BACK.reset(token)


def gathered(value, indices):
    """Returns rows of the value of a table as `keras.ops.take`, or `None`: that is as good."""
    return


def _inside(indices, rows):
    """The indices, with the same one, past the end, for all that are outside of a table."""
    return jnp.where((indices >= 0) & (indices < rows), indices, rows)
