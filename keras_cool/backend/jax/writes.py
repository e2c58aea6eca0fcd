"""JAX: rows that are written to tables, at once or after a conditional update."""

import contextlib
import contextvars
from typing import Any, NamedTuple

import jax.numpy as jnp


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
