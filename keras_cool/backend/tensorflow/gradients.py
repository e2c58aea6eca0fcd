"""`value_and_grad` on TensorFlow: a `GradientTape` that watches the tensors and nothing else."""

import contextlib
import warnings

import tensorflow as tf
from keras import tree

from keras_cool.backend.assigned_leaves import AssignedLeaves
from keras_cool.backend.row_sparse import RowSparse, with_rows
from keras_cool.backend.tensorflow.computing_again import (
    PartsComputedAgain,
    check_reads,
    is_recording,
)
from keras_cool.backend.tensorflow.rows import gathered
from keras_cool.keras_private import ComputingAgain, ComputingMoments, GatheringRows, ResizingImages

KEEPS_ASSIGNED = True


def value_and_grad(objective, scope_at, tensors, tables=None):
    """Returns `(value, aux, gradients)` of `objective(tensors, scope) -> (value, aux)`.

    The scope, from `scope_at(tensors)`, stays open while the gradients are taken: a rematerialised
    layer reads its variables once more then.

    `tables` as on JAX.
    """
    with tf.GradientTape() as tape:
        # An alias of its own for each, so that one tensor given twice has two gradients.
        with tape.stop_recording():
            given, tensors = tensors, [tf.identity(tf.convert_to_tensor(t)) for t in tensors]
        tape.watch(tensors)
        gather = _GatheredRows(tables or {}, given, tensors, tape)

        def new_leaf(value):
            leaf = tf.stop_gradient(value)
            tape.watch(leaf)
            return leaf

        with scope_at(tensors) as scope:
            assigned = AssignedLeaves(scope, tensors, new_leaf, _sum)
            with (
                ComputingAgain(PartsComputedAgain(scope)),
                GatheringRows(gather) if tables else contextlib.nullcontext(),
            ):
                value, aux = objective(tensors, scope)
            check_reads(scope, tape)
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
        ever. So in a loop, in `tf.vectorized_map`, and for sparse and ragged indices."""
        place = self._tables.get(id(table))
        if place is None or table.value is not self._tensors[place]:
            return None
        if tf.compat.v1.get_default_graph() is not self._graph or _is_vectorized():
            return None
        if not is_recording():  # it is computed again
            return None
        with self._tape.stop_recording():
            rows = gathered(self._given[place], indices)
        if rows is None:
            return None
        self._tape.watch(rows)
        self.found.append((place, indices))
        self.rows.append(rows)
        return rows


def _is_vectorized():
    """Whether a function is traced whose operations `tf.vectorized_map` replaces: it traces in
    a scope of this name."""
    return "loop_body" in tf.get_current_name_scope()


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
    """Returns `gradient` as a tensor: zeros where it is `None`, `IndexedSlices` and `RowSparse`
    made dense."""
    if isinstance(gradient, RowSparse):
        return gradient.dense()
    if gradient is None:
        return tf.zeros_like(tensor)
    dense = tf.convert_to_tensor(gradient)
    dense.set_shape(tensor.shape)  # a graph may not know it: of embeddings, and after an RNN
    return dense


@contextlib.contextmanager
def differentiable_twice():
    """The context in which the derivatives of a function have right derivatives.

    `tf.nn.moments` takes the mean in the variance for a constant: the derivative of the variance is
    right all the same, but not the derivative of that. The gradient of a bilinear resize counts as
    a constant, so that its derivative would be zero: that is an error here.
    """
    with ComputingMoments(_moments), ResizingImages(_resized):
        yield


def _resized(resize, images, *args, **kwargs):
    return resize(_differentiable_once(tf.convert_to_tensor(images)), *args, **kwargs)


@tf.custom_gradient
def _differentiable_once(images):
    return tf.identity(images), _not_differentiable


@tf.custom_gradient
def _not_differentiable(gradient):
    def fail(_):
        raise NotImplementedError(
            "TensorFlow has no second derivatives of resized images (Resizing, UpSampling2D with "
            "interpolation='bilinear', keras.ops.image.resize), nor forward mode through them: it "
            "would take them for zero. Use UpSampling2D with interpolation='nearest', or "
            "a transposed convolution, or another backend."
        )

    return tf.identity(gradient), fail


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
