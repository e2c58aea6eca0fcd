"""`value_and_grad` on TensorFlow: a `GradientTape` that watches the tensors and nothing else."""

from contextlib import nullcontext

import tensorflow as tf

from keras_cool.backend.assigned_leaves import AssignedLeaves
from keras_cool.backend.row_sparse import RowSparse, with_rows
from keras_cool.backend.tensorflow.rows import gathered
from keras_cool.keras_private import GatheringRows

KEEPS_ASSIGNED = True


def value_and_grad(objective, scope_at, tensors, tables=None):
    """Returns `(value, aux, gradients)` of `objective(tensors, scope) -> (value, aux)`.

    The scope, from `scope_at(tensors)`, stays open while the gradients are taken: a rematerialised
    layer reads its variables once more then.

    `tables` as on JAX.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        # An alias of its own for each, so that one tensor given twice has two gradients.
        given, tensors = tensors, [tf.identity(tf.convert_to_tensor(t)) for t in tensors]
        tape.watch(tensors)
        gather = _GatheredRows(tables or {}, given, tensors, tape)

        def new_leaf(value):
            leaf = tf.stop_gradient(value)
            tape.watch(leaf)
            return leaf

        with scope_at(tensors) as scope:
            assigned = AssignedLeaves(scope, tensors, new_leaf, _sum)
            with GatheringRows(gather) if tables else nullcontext():
                value, aux = objective(tensors, scope)
            with tape.stop_recording():
                leaves = assigned.all_leaves()
                gradients = tape.gradient(value, [*leaves, *gather.rows])
                by_rows = gradients[len(leaves) :]
                gradients = assigned.joined(gradients[: len(leaves)])
    return value, aux, with_rows(gradients, gather.found, by_rows, [t.shape for t in tensors])


class _GatheredRows:
    """Looks rows up in tables of which no gradient is taken; of the rows it is.

    Args:
        tables: Dictionary of the places of tables among the tensors, by the ids of the variables.
        given: List of tensors or `tf.Variable`s, the values of the tables among them.
        tensors: List of tensors, the same as they are watched.
        tape: The tape.
    """

    def __init__(self, tables, given, tensors, tape):
        self._tables, self._given, self._tensors, self._tape = tables, given, tensors, tape
        self._graph = tf.compat.v1.get_default_graph()
        self.found, self.rows = [], []

    def __call__(self, table, indices):
        """Returns the rows of a table, a `keras.Variable`, or `None`: they are to be looked up as
        ever. So in a loop, and for sparse and ragged indices."""
        place = self._tables.get(id(table))
        if place is None or table.value is not self._tensors[place]:
            return None
        if tf.compat.v1.get_default_graph() is not self._graph:
            return None
        with self._tape.stop_recording():
            rows = gathered(self._given[place], indices)
        if rows is None:
            return None
        self._tape.watch(rows)
        self.found.append((place, indices))
        self.rows.append(rows)
        return rows


def jacobian(function, vector, rows):
    """Returns `(value, aux, jacobian)` of `function(vector) -> (value, aux)`, by reverse mode.

    Args: As in `keras_cool/backend/jax/gradients.py`.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        vector = tf.identity(vector)
        tape.watch(vector)
        value, aux = function(vector)
    zero = tf.UnconnectedGradients.ZERO
    rows = tape.jacobian(value, vector, unconnected_gradients=zero, parallel_iterations=rows)
    return value, aux, rows


def _sum(a, b):
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)


def densify(gradient, tensor):
    """Returns `gradient` as a tensor: zeros where it is `None`, `IndexedSlices` and `RowSparse`
    made dense."""
    if isinstance(gradient, RowSparse):
        return gradient.dense()
    if gradient is None:
        return tf.zeros_like(tensor)
    dense = tf.convert_to_tensor(gradient)
    dense.set_shape(tensor.shape)  # a graph may not know it: of embeddings, and after an RNN
    return dense


def allow_float64():
    """Nothing to do: TensorFlow computes in float64 where it is asked to."""


def gradients_of_keras_step(gradients, variables):
    """What Keras' own step gives the optimizer for variables that the loss does not depend on.

    As they are: `None`, of which the optimizer warns.

    Args:
        gradients: List of tensors or `None`.
        variables: List of the `keras.Variable`s.
    """
    return gradients
