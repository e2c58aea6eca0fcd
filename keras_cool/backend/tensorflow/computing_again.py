"""TensorFlow: parts of a function whose tensors are computed again in the backward pass."""

import tensorflow as tf
from keras import tree
from tensorflow.python.eager import record

from keras_cool.keras_private import (
    OverlayScope,
    calls_as_here,
    held_value,
    without_gradients,
)

LOST = (
    "{path} is read in a part that TensorFlow differentiates by itself, and its gradient would be "
    "lost: {reason}. Inside `call`, use keras.remat, or keras.RematScope around the layers, in "
    "place of tf.recompute_grad, and plain functions in place of those of tf.function."
)


def is_recording():
    """Whether a tape records what is computed: not in the forward pass of `tf.recompute_grad`."""
    return record.could_possibly_record()


def check_reads(scope, tape):
    """Refuses weights that were read as they are stored, and not through the scope: by a function
    of `tf.function` that was traced before."""
    read = {id(v) for v in tape.watched_variables()}
    for variable in scope.variables if read else ():
        held = held_value(variable)
        strategy = getattr(held, "distribute_strategy", None)
        parts = [held] if strategy is None else strategy.experimental_local_results(held)
        if any(id(part) in read for part in [held, *parts]):
            reason = "a function of tf.function keeps the variables that it was traced with"
            raise ValueError(LOST.format(path=variable.path, reason=reason))


class PartsComputedAgain:
    """What `keras.remat` makes of a function, where the weights that it reads are tensors.

    `tf.recompute_grad`, which Keras takes, has gradients by the arguments and by `tf.Variable`s.
    Those by other tensors are lost without a word. It draws new random numbers, too. Here they are
    those of the first run, and layers may neither add losses in such a part nor assign to weights
    that are trained.

    Args:
        scope: The `OverlayScope` in which the weights have the tensors for values.
    """

    def __init__(self, scope):
        self._scope, self._read = scope, None
        scope.on_reading = self._note

    def __call__(self, function):
        """Returns the function that keeps none of the tensors which `function` computes."""

        def computed_again(*args, **kwargs):
            return self._call(function, args, kwargs)

        return computed_again

    def _note(self, place):
        if self._read is not None:
            self._read.setdefault(place, None)
        elif not is_recording():
            path = self._scope.variables[place].path
            raise ValueError(LOST.format(path=path, reason="tf.recompute_grad sees no variable"))

    def _call(self, function, args, kwargs):
        if self._read is not None:  # a part of a part
            return function(*args, **kwargs)
        scope, self._read = self._scope, {}
        before, losses = dict(_by_id(scope)), len(scope.added_losses)
        try:
            with record.stop_recording():
                outputs = function(*args, **kwargs)
        finally:
            read, self._read = list(self._read), None
        changed = _changed(scope, before)
        variables = [scope.variables[place] for place in read]
        self._check(changed, losses)

        flat, as_here = tree.flatten((args, kwargs)), calls_as_here()
        places = [i for i, x in enumerate(flat) if tf.is_tensor(x) and x.dtype.is_floating]

        def run_again(inputs):
            values, given = inputs[: len(variables)], inputs[len(variables) :]
            again = list(flat)
            for place, tensor in zip(places, given, strict=True):
                again[place] = tensor
            args_again, kwargs_again = tree.pack_sequence_as((args, kwargs), again)
            at_start = [*zip(variables, values, strict=True), *changed]
            # Parts of the part are none.
            with without_gradients(), as_here(), OverlayScope(at_start):
                return function(*args_again, **kwargs_again)

        inputs = [scope.get_current_value(v) for v in variables] + [flat[i] for i in places]
        return _with_gradient(outputs, inputs, run_again)

    def _check(self, changed, losses):
        trained = {id(v) for v in self._scope.variables}
        assigned = [v.path for v, _ in changed if id(v) in trained]
        if assigned:
            raise ValueError(
                f"A part under keras.remat assigns to {assigned}, which are trained: on TensorFlow "
                "the gradient by the new value is lost. Leave these layers out of the part."
            )
        if len(self._scope.added_losses) != losses:
            raise ValueError(
                "Layers of a part under keras.remat add losses (activity_regularizer, add_loss), "
                "whose gradients TensorFlow loses. Leave these layers out of the part."
            )


def _by_id(scope):
    return ((id(v), value) for v, value in scope.updates)


def _changed(scope, before):
    """The variables that a part has assigned, each with the value that it had before."""
    pairs = []
    for variable, value in scope.updates:
        old = before.get(id(variable))
        if old is None:
            outer = scope.original_scope
            old = None if outer is None else outer.get_current_value(variable)
            old = held_value(variable) if old is None else old
        if old is not value:
            pairs.append((variable, tf.convert_to_tensor(old)))
    return pairs


def _with_gradient(outputs, inputs, run_again):
    """The outputs of a part, whose gradients are those of `run_again(inputs)`."""
    leaves = tree.flatten(outputs)
    floating = [i for i, y in enumerate(leaves) if tf.is_tensor(y) and y.dtype.is_floating]
    if not floating or not inputs:
        return outputs

    @tf.custom_gradient
    def attach(*inputs):
        def gradient(*upstream):
            with tf.GradientTape() as tape, tf.control_dependencies(upstream):
                given = [tf.identity(x) for x in inputs]
                tape.watch(given)
                again = tree.flatten(run_again(given))
                again = [again[i] for i in floating]
            zero = tf.UnconnectedGradients.ZERO
            return tape.gradient(again, given, upstream, unconnected_gradients=zero)

        return [tf.identity(leaves[i]) for i in floating], gradient

    for place, output in zip(floating, attach(*inputs), strict=True):
        leaves[place] = output
    return tree.pack_sequence_as(outputs, leaves)
