"""`Window`: what `Accumulate` knows of the batches that make up an update."""

import numpy as np
from keras import ops


class Window:
    r"""The state of a window, all of it in variables: traced, saved, and the same on all replicas.

    A batch may hand over its gradients in several calls, each for some of the variables. For each
    variable \(i\) the window keeps the sum of the weights \(w_j\) of the batches \(j\) in which it
    was given, whether a gradient reached it, and the number of the call that gave it. A window
    begins by forgetting these: nothing is reset at its end, and nothing of an older one is left.

    The weights are relative to the first one of the window, so that sums of gradients stay near the
    gradients themselves: 16 bits do not hold the sums of a thousand samples.

    Args:
        add_variable: A function `add_variable(name, shape, dtype)` that makes a variable.
        dtype: String, the dtype of the weights.
    """

    def __init__(self, add_variable, dtype):
        self._add_variable = add_variable
        self._dtype = dtype
        self.batches = add_variable("batches", (), "int32")
        self._calls = add_variable("calls", (), "int32")  # of the present batch
        self._fills = add_variable("fills", (), "bool")  # whether the present batch does
        self._unit = add_variable("unit", (), dtype)

    def build(self, count):
        """Makes the variables that have an entry for each of `count` variables."""
        self._given = self._add_variable("given", (count,), "bool")  # in the present batch
        self._reached = self._add_variable("reached", (count,), "bool")
        self._call = self._add_variable("call", (count,), "int32")
        self._weights = self._add_variable("weights", (count,), self._dtype)

    def begin_batch(self):
        """Tells that the next call belongs to another batch."""
        self._calls.assign(ops.zeros((), "int32"))

    def take_in(self, given, present, ended, weight, adds_up, taken, steps):
        """Counts one call.

        A call belongs to another batch than the call before if `begin_batch` said so, or if a
        variable comes again, or one of it is among those that have `ended`.

        Args:
            given: Boolean NumPy array, which variables the call is for.
            present: Boolean NumPy array, which of them have a gradient.
            ended: Boolean NumPy array, which variables are frozen by now.
            weight: Scalar, the weight of the batch.
            adds_up: Boolean. If `True` the gradients are added up with their weights, and not
                divided by the sum of these.
            taken: Scalar boolean, or `None`: whether the gradients are, or left out.
            steps: Scalar integer, the number of batches of a window.

        Returns:
            `(fresh, factor)`: a boolean vector of the variables whose sums begin with this call,
            and the scalar with which the gradients count in these.
        """
        again = ops.any(ops.logical_and(self._given.value, np.logical_or(given, ended)))
        given, present = ops.convert_to_tensor(given), ops.convert_to_tensor(present)
        begins = ops.logical_or(self._calls.value == 0, again)
        opens = ops.logical_and(begins, self.batches.value == 0)
        number = self.batches.value + 1
        fills = number >= steps
        held = ops.where(fills, ops.zeros_like(number), number)
        stays = ops.logical_not(opens)

        weight = ops.cast(weight, self._dtype)
        unit = self._unit.value
        unit = ops.where(ops.logical_or(opens, unit == 0), weight, unit)
        factor = ops.divide_no_nan(weight, unit)
        weights = ops.where(stays, self._weights.value, ops.zeros_like(self._weights.value))
        sums = ops.divide_no_nan(ops.ones_like(unit), unit) if adds_up else weights + factor
        reached = ops.logical_and(self._reached.value, stays)
        fresh = ops.logical_not(reached)
        present = present if taken is None else ops.logical_and(present, taken)
        calls = ops.where(begins, ops.ones_like(number), self._calls.value + 1)
        call = ops.where(stays, self._call.value, ops.zeros_like(self._call.value))
        before = ops.logical_and(self._given.value, ops.logical_not(begins))

        self._given.assign(ops.logical_or(given, before))
        self._reached.assign(ops.logical_or(reached, present))
        self._call.assign(ops.where(given, calls, call))
        self._weights.assign(ops.where(given, sums, weights))
        self._unit.assign(unit)
        self._calls.assign(calls)
        self._fills.assign(ops.where(begins, fills, self._fills.value))
        self.batches.assign(ops.where(begins, held, self.batches.value))
        return fresh, factor

    @property
    def fills(self):
        """Whether the present batch fills the window: a scalar boolean tensor."""
        return self._fills.value

    @property
    def is_complete(self):
        """Whether no batch has been taken in since the last window was full."""
        return self.batches.value == 0

    @property
    def reached(self):
        """Which variables have a gradient in the window: a boolean vector."""
        return self._reached.value

    def is_of_step(self):
        """Which variables a step of the present call updates: those that a gradient reached in the
        window, and that were given with this call, or in an earlier batch with the call of its
        number. A boolean vector."""
        same = self._call.value == self._calls.value
        return ops.logical_and(self._reached.value, same)

    def factors(self):
        """What makes means of the sums: a vector, 0 where the weights are."""
        weights = self._weights.value
        return ops.divide_no_nan(ops.ones_like(weights), weights)

    def calls(self):
        """The calls of the batches so far, in their order: a list of boolean NumPy arrays that say
        which variables each was for. Outside of a step."""
        calls = self._call.numpy() if hasattr(self, "_call") else np.zeros(0, "int32")
        return [calls == number for number in np.unique(calls) if number > 0]

    def end(self):
        """Ends the window as it is; the next call opens another one."""
        self.batches.assign(ops.zeros((), "int32"))
        self.begin_batch()
