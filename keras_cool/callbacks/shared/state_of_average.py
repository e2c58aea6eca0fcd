"""`StateOfAverage`: a running mean of weights, and the weights that it stands in for, saved."""

import numpy as np
from keras import ops

from keras_cool import backend
from keras_cool.callbacks.shared.saved_state import SavedState
from keras_cool.callbacks.shared.swapped_weights import SwappedWeights, as_arrays


class StateOfAverage(SavedState):
    """The running mean of some variables, on the devices, and what `SwappedWeights` keeps.

    They are saved and loaded with the weights of the model, as the numbers are, and belong to the
    state of training that `TrainingState` puts back.

    Args:
        **numbers: As for `SavedState`.

    Attributes:
        count: Integer, how many values the mean is of.
        mean: List of tensors, or `None`.
        swapped: `SwappedWeights`.
        reads: Boolean, whether a file that is loaded is read: until training has begun.
        was_loaded: Boolean, whether it has come from a file and `take_up` has not been called yet.
    """

    def __init__(self, **numbers):
        super().__init__(count=0.0, **numbers)
        self.swapped = SwappedWeights()
        self.mean: list | None = None
        self.variables: list = []
        self.reads = True
        self.was_loaded = False
        self._loaded: dict = {}

    @property
    def count(self):
        return int(self["count"])

    def add(self, variables):
        """Takes the present values of variables into the mean; they are the same each time."""
        self["count"] = self.count + 1
        self.variables = list(variables)
        self.mean = backend.snapshots.running_mean(self.mean, variables, self.count)

    def take_up(self, variables, others):
        """Goes on with what was loaded.

        Args:
            variables: List of the variables that the mean is of.
            others: List of further variables that may have been swapped.
        """
        if not self.was_loaded:
            return
        self.was_loaded, loaded = False, self._loaded
        self.mean, self.variables = None, list(variables)
        if loaded["mean"]:
            replicas = len(backend.snapshots.copies(variables[:1]))
            self.mean = [
                ops.convert_to_tensor(array, dtype=array.dtype.name)
                for array in loaded["mean"]
                for _ in range(replicas)
            ]
        self.swapped.forget()
        if loaded["last"]:
            self.swapped.take([*variables, *others], loaded["last"])

    def save_own_variables(self, store):
        """Writes numbers and weights into `store`, a mapping of names to arrays."""
        super().save_own_variables(store)
        mean = as_arrays(self.mean or [], len(self.variables))
        for name, arrays in (("mean", mean), ("last", self.swapped.arrays())):
            for i, array in enumerate(arrays):
                store[f"{name}_{i}"] = array

    def load_own_variables(self, store):
        """Reads what is in `store`."""
        names = set(store.keys())
        if not (SavedState._are_read and self.reads) or "count" not in names:
            return
        super().load_own_variables(store)
        for name in ("mean", "last"):
            count = sum(key.startswith(f"{name}_") for key in names)
            self._loaded[name] = [np.array(store[f"{name}_{i}"]) for i in range(count)]
        self.was_loaded = True

    def keep(self):
        """What `put_back` takes. The tensors of the mean are never written to."""
        return self.count, self.mean, self.variables, self.swapped.keep()

    def put_back(self, kept):
        """Is again as it was when `keep` gave `kept`."""
        count, self.mean, self.variables, swapped = kept
        self["count"] = count
        self.swapped.put_back_kept(swapped)


__all__ = ["StateOfAverage"]
