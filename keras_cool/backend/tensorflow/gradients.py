"""`value_and_grad` on TensorFlow: a `GradientTape` that watches the tensors and nothing else."""

import warnings

import tensorflow as tf
from keras import tree

from keras_cool.backend.assigned_leaves import AssignedLeaves
from keras_cool.keras_private import ComputingMoments

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


def vjp(function, tensors):
    """Returns `(value, aux, pull_back)` of `function(tensors) -> (value, aux)`.

    Args, returns: As in `keras_cool/backend/jax/gradients.py`.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tensors = [tf.identity(t) for t in tensors]
        tape.watch(tensors)
        value, aux = function(tensors)
    return value, aux, lambda cotangent: tape.gradient(value, tensors, cotangent)


def jvp(function, tensors, tangents):
    """Returns `(value, aux, tangent)` of `function(tensors) -> (value, aux)`, by forward mode.

    Args: As in `keras_cool/backend/jax/gradients.py`.
    """
    tensors = [tf.identity(t) for t in tensors]
    with tf.autodiff.ForwardAccumulator(tensors, list(tangents)) as accumulator:
        value, aux = function(tensors)
    zero = tf.UnconnectedGradients.ZERO
    return value, aux, tree.map_structure(lambda t: accumulator.jvp(t, zero), value)


def over_samples(function, tensors):
    """Returns what `function(tensors)`, a list of tensors, gives for each sample.

    Args, returns: As in `keras_cool/backend/jax/gradients.py`.
    """
    specs = [tf.TensorSpec(t.shape[1:], t.dtype) for t in tensors]
    traced = tf.function(lambda *tensors: function(list(tensors))).get_concrete_function(*specs)
    definition = traced.graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    if any(node.op.endswith("While") for node in nodes):
        warnings.warn(
            "A layer has a loop, as recurrent ones do, which XLA does not map over samples. One "
            "sample is computed after another. Give the layer `unroll=True`.",
            stacklevel=2,
        )
        outputs = [tf.TensorSpec(t.shape, t.dtype) for t in traced.structured_outputs]
        return tf.map_fn(lambda ts: function(list(ts)), tuple(tensors), fn_output_signature=outputs)
    # Compiled by XLA: mapped attention has wrong numbers, or crashes, in the kernels of oneDNN.
    mapped = tf.function(lambda *ts: tf.vectorized_map(function, list(ts)), jit_compile=True)
    return mapped(*tensors)


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


def differentiable_twice():
    """The context in which the derivatives of a function have right derivatives.

    `tf.nn.moments` takes the mean in the variance for a constant: the derivative of the variance is
    right all the same, but not the derivative of that.
    """
    return ComputingMoments(_moments)


def _moments(x, axes, keepdims):
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=keepdims)
    return mean if keepdims else tf.squeeze(mean, axes), variance


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
