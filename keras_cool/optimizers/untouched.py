"""`Untouched`: a variable that a compiled step is to leave alone, which only its run can tell."""

from keras import ops

from keras_cool import backend
from keras_cool.keras_private import moving_average, optimizer_of, slots
from keras_cool.optimizer_roles import chain
from keras_cool.optimizers.lookahead import Lookahead


class Untouched:
    """Undoes what an optimizer does to a variable, and to its own state of it, unless `condition`.

    What is compiled cannot leave a variable out by what it computes. It is given a gradient of
    zeros, and put back after the update. The moving average of its weights goes on as that of any
    other variable that does not move, and takes their place when it does for the others; so do the
    slow weights of `Lookahead`.

    Args:
        optimizer: The Keras optimizer, before its update.
        variable: The `keras.Variable`.
        condition: Scalar boolean tensor.
    """

    def __init__(self, optimizer, variable, condition):
        optimizers = [optimizer_of(o, variable) for o in chain(optimizer)]
        applying = optimizers[-1]
        self._condition = condition
        self._variables = [variable, *slots(applying, variable)]
        self._values = [v.value + 0 for v in self._variables]  # + 0: a copy
        average = moving_average(applying, variable)
        if average is not None:
            self._values[0], updated = _averaged(applying, average, self._values[0])
            self._variables.append(average)
            self._values.append(updated)
        for lookahead in (o for o in reversed(optimizers) if isinstance(o, Lookahead)):
            slow, self._values[0], updated = lookahead.followed(variable, self._values[0])
            self._variables.append(slow)
            self._values.append(updated)

    def put_back(self):
        """Undoes the update."""
        backend.updates.undo_unless(self._condition, self._variables, self._values)


def _averaged(optimizer, average, weights):
    """Returns the weights and their moving average after a step that does not move them."""
    iterations = optimizer.iterations.value
    momentum = ops.cast(optimizer.ema_momentum * ops.cast(iterations > 0, "float32"), average.dtype)
    updated = momentum * average.value + (1 - momentum) * weights
    if not optimizer.ema_overwrite_frequency:
        return weights, updated
    overwrites = (iterations + 1) % optimizer.ema_overwrite_frequency == 0
    return ops.where(overwrites, updated, weights), updated
