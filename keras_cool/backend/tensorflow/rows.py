"""TensorFlow: rows of tables, read and written in place."""

import tensorflow as tf

from keras_cool.backend.row_sparse import RowSparse


def merged(gradient):
    """Returns a `RowSparse` gradient with each index once."""
    indices, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(indices))
    return RowSparse(indices, tf.ensure_shape(values, (None, *gradient.shape[1:])), gradient.shape)


def take(variable, indices):
    """Returns rows of a variable."""
    return tf.gather(variable.value, indices)


def put(variable, indices, rows):
    """Assigns rows to a variable, each once."""
    variable.value.scatter_update(tf.IndexedSlices(rows, indices))


def add(variable, indices, rows):
    """Adds rows to a variable; some may come several times."""
    variable.value.scatter_add(tf.IndexedSlices(rows, indices))


def gathered(value, indices):
    """Returns rows of the value of a table as `keras.ops.take`, or `None` for sparse and ragged
    indices.

    They are read from the variable itself. A tensor of all its rows would share its memory, and the
    update of some rows copy the table.
    """
    if not isinstance(indices, tf.Tensor):
        return None
    indices = tf.where(indices < 0, indices + value.shape[0], indices)
    return tf.gather(value, indices)
