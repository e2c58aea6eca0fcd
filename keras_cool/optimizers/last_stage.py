"""`LastStage`: the gradient of the last stage, which is the first one of the next step."""

import numpy as np
from keras import ops


class LastStage:
    """Keeps the gradient at the point after a step, for the step that begins there.

    It is used only where the loss at the beginning of a step is the one it was taken with, to
    within rounding: with another batch, other weights or other random numbers it is not.

    Args:
        optimizer: The Keras optimizer that gets the variables.
        variables: List of the `keras.Variable`s to train.
        dtype: String, the dtype that losses are compared in.
    """

    def __init__(self, optimizer, variables, dtype):
        def variable(shape, dtype, name):
            return optimizer.add_variable(
                shape, "zeros", dtype, aggregation="only_first_replica", name=name
            )

        self._dtype = dtype
        self._tolerance = 100 * float(np.finfo(dtype).eps)
        self._gradients = [variable(v.shape, v.dtype, "last_gradient") for v in variables]
        self._loss = variable((), dtype, "last_loss")
        self._known = variable((), "int32", "last_stage_is_known")

    def first_gradient(self, evaluate, point):
        """Gives the gradients at the point, and the number of evaluations it took: 0 or 1.

        The loss is computed in any case, for the logs.
        """
        loss = ops.cast(evaluate.forward(point), self._dtype)
        apart = ops.abs(loss - self._loss.value) > self._tolerance * ops.abs(loss)
        stale = apart | (self._known.value == 0) | ops.logical_not(ops.isfinite(loss))

        def evaluated(count, *_):
            return count + 1, *evaluate(point)[1]

        count, *first = evaluate.while_loop(
            lambda count, *_: stale & (count < 1),
            evaluated,
            (ops.zeros((), "int32"), *(g.value for g in self._gradients)),
        )
        return first, count

    def keep(self, loss, gradients):
        """Keeps the last stage of an accepted step; in a skipped one it is not assigned."""
        for variable, gradient in zip(self._gradients, gradients, strict=True):
            variable.assign(gradient)
        self._loss.assign(loss)
        self._known.assign(1)
