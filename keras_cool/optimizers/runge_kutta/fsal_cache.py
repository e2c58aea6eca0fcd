"""`FSALCache`: keeps the last stage of a step, which is the first of the next (FSAL)."""

import numpy as np
from keras import ops

from keras_cool.keras_private import variable_index
from keras_cool.optimizers.optimizer_wrapper import code_of_variables

ROUNDING = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


class FSALCache:
    """Keeps the gradient at the point after a step, for the step that begins there.

    FSAL stands for "first same as last". The gradient is used again only if all of this holds:

    - The point is the same, to within the rounding of the step.
    - The batch is the same, in any order of the samples, and so is everything else that the loss
      reads (frozen weights, scheduled numbers).
    - The loss is not random, and no layer changes what it reads.
    - The loss is the same as it was there, to within rounding.

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

        self._optimizer = optimizer
        self._dtype = dtype
        self._tolerance = 100 * float(np.finfo(dtype).eps)
        self._gradients = [variable(v.shape, v.dtype, "last_gradient") for v in variables]
        self._point = [variable(v.shape, v.dtype, "last_point") for v in variables]
        self._batch = variable((), "int32", "last_batch")
        self._loss = variable((), dtype, "last_loss")
        self._known = variable((), "int32", "last_stage_is_known")
        self._of_variables = variable((), "int32", "variables_of_last_stage")

    def first_gradient(self, evaluate, point):
        """Returns the gradients at the point, and the number of evaluations it took: 0 or 1.

        The loss is always computed, for the logs.
        """
        loss = ops.cast(evaluate.forward(point), self._dtype)
        if not evaluate.is_repeatable:
            return evaluate(point)[1], ops.ones((), "int32")
        variables = evaluate.variables
        gradients = self._slots(self._gradients, variables)
        usable = (
            (self._known.value == 1)
            & (self._of_variables.value == code_of_variables(self._optimizer, variables))
            & self._is_at(point, variables)
            & (evaluate.fingerprint() == self._batch.value)
            & (ops.abs(loss - self._loss.value) <= self._tolerance * ops.abs(loss))
        )

        def evaluated(count, *_):
            return count + 1, *evaluate(point)[1]

        count, *first = evaluate.while_loop(
            lambda count, *_: ops.logical_not(usable) & (count < 1),
            evaluated,
            (ops.zeros((), "int32"), *(g.value for g in gradients)),
        )
        return first, count

    def _slots(self, slots, variables):
        """Those of the slots that are for `variables`; others may have been frozen since."""
        return [slots[variable_index(self._optimizer, v)] for v in variables]

    def _is_at(self, point, variables):
        """Whether the kept gradients are those at `point`."""
        same = True
        for kept, p in zip(self._slots(self._point, variables), point, strict=True):
            apart = ops.max(ops.abs(p - kept.value), initial=0)
            bound = 8 * ROUNDING[kept.dtype] * ops.max(ops.abs(p), initial=0)
            same &= apart <= bound
        return same

    def keep(self, evaluate, point, loss, gradients):
        """Keeps the last stage of an accepted step. A skipped step assigns nothing.

        Args:
            evaluate: As for `estimate_gradient`, called already.
            point: List of tensors, the point after the step.
            loss: Scalar tensor, the loss there.
            gradients: List of tensors, the gradients there.
        """
        variables = evaluate.variables
        kept = [*self._slots(self._point, variables), *self._slots(self._gradients, variables)]
        for variable, value in zip(kept, [*point, *gradients], strict=True):
            variable.assign(value)
        self._batch.assign(evaluate.fingerprint())
        self._loss.assign(loss)
        self._known.assign(1)
        self._of_variables.assign(code_of_variables(self._optimizer, variables))
