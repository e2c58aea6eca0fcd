"""PyTorch: rows of tables, read and written in place."""

import torch

from keras_cool.backend.row_sparse import RowSparse
from keras_cool.keras_private import in_stateless_scope


def merged(gradient):
    """Returns a `RowSparse` gradient with each index once."""
    sparse = _sparse(gradient.indices, gradient.values, gradient.shape).coalesce()
    return RowSparse(sparse.indices()[0], sparse.values(), gradient.shape)


def take(variable, indices):
    """Returns rows of a variable."""
    return variable.value.detach()[indices.long()]


def put(variable, indices, rows):
    """Assigns rows to a variable, each once."""
    _write(variable, lambda value: value.index_copy_(0, indices.long(), rows))


def add(variable, indices, rows):
    """Adds rows to a variable; some may come several times."""
    # `index_add_` takes many times as long where threads have to share a core.
    _write(variable, lambda value: value.add_(_sparse(indices, rows, value.shape)))


def gathered(value, indices):
    """Returns rows of the value of a table as `keras.ops.take`, or `None`: that is as good."""
    return


def _sparse(indices, values, shape):
    return torch.sparse_coo_tensor(indices[None], values, tuple(shape), check_invariants=True)


def _write(variable, write):
    value = variable.value.detach()
    if in_stateless_scope():
        variable.assign(write(value.clone()))
    else:
        write(value)
