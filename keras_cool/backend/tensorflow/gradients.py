"""`value_and_grad` on TensorFlow: a `GradientTape` that watches the tensors and nothing else."""

import tensorflow as tf

from keras_cool.backend.assigned_leaves import AssignedLeaves

KEEPS_ASSIGNED = True


def value_and_grad(objective, scope_at, tensors):
    """Returns `(value, aux, gradients)` of `objective(tensors, scope) -> (value, aux)`.

    The scope, from `scope_at(tensors)`, stays open while the gradients are taken: a rematerialised
    layer reads its variables once more then.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        # An alias of its own for each, so that one tensor given twice has two gradients.
        tensors = [tf.identity(tf.convert_to_tensor(t)) for t in tensors]
        tape.watch(tensors)

        def new_leaf(value):
            leaf = tf.stop_gradient(value)
            tape.watch(leaf)
            return leaf

        with scope_at(tensors) as scope:
            assigned = AssignedLeaves(scope, tensors, new_leaf, _sum)
            value, aux = objective(tensors, scope)
            with tape.stop_recording():
                gradients = tape.gradient(value, assigned.all_leaves())
                return value, aux, assigned.joined(gradients)


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
    """Returns `gradient` as a tensor: zeros where it is `None`, `IndexedSlices` made dense."""
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
