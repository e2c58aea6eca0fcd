"""`SwappedWeights`: other weights in a model for a while, and those of the training back."""

import hashlib

import keras
import numpy as np

from keras_cool import backend


class SwappedWeights:
    """Gives variables other values, and puts back those that they had, bit for bit.

    The values that they had are copies on the devices, laid out as the variables are.
    """

    def __init__(self):
        self._variables: list = []
        self._last: list = []
        self._noted: list | None = None

    @property
    def are_in(self):
        """Whether variables have other values than those of the training."""
        return bool(self._variables)

    def swap_in(self, variables, values):
        """Keeps what variables have, and assigns other values to them.

        Args:
            variables: List of variables, none of which is swapped already.
            values: List of tensors, as `backend.snapshots` makes copies and means, or `None`: the
                caller assigns them.
        """
        last = backend.snapshots.copies(variables)
        self._variables, self._last = self._variables + list(variables), self._last + last
        if values is not None:
            pairs = zip(values, last, strict=True)
            in_their_types = [keras.ops.cast(v, standard_dtype(like)) for v, like in pairs]
            backend.snapshots.assign_copies(variables, in_their_types)

    def note(self):
        """Notes what the variables have now, for `were_set`."""
        self._noted = [_digest(v) for v in self._variables]

    @property
    def were_set(self):
        """Whether variables have been given other values since `note`, by whom ever."""
        return self._noted is not None and self._noted != [_digest(v) for v in self._variables]

    def put_back(self):
        """Assigns what the variables had, if they are swapped."""
        variables, last = self._variables, self._last
        self.forget()
        backend.snapshots.assign_copies(variables, last)

    def forget(self):
        """Leaves to the variables what they have."""
        self._variables, self._last, self._noted = [], [], None

    def arrays(self):
        """What the variables had, a list of NumPy arrays, one for each variable."""
        return as_arrays(self._last, len(self._variables))

    def take(self, variables, arrays):
        """Goes on after `arrays` of another process: `put_back` assigns them."""
        with_them = SwappedWeights()
        with_them.swap_in(variables, None)
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        last = backend.snapshots.copies(variables)
        with_them.put_back()
        self._variables, self._last = list(variables), last

    def keep(self):
        """What `put_back_kept` takes."""
        return self._variables, self._last

    def put_back_kept(self, kept):
        """Is again as it was when `keep` gave `kept`. It touches no variable."""
        self._variables, self._last = kept


def _digest(variable):
    of_replicas = backend.snapshots.copies([variable])
    return hashlib.sha256(backend.snapshots.as_bytes(of_replicas[0]).tobytes()).digest()


def standard_dtype(tensor):
    """The name of a tensor's type, as Keras has it."""
    return keras.backend.standardize_dtype(tensor.dtype)


def as_arrays(tensors, count):
    """Tensors as `backend.snapshots.copies` gives them for `count` variables as NumPy arrays of 32
    or 64 bits, one for each variable: of replicas, which are alike, the first."""
    replicas = max(1, len(tensors) // max(1, count))
    arrays = []
    for tensor in tensors[::replicas]:
        wide = "float64" if standard_dtype(tensor) == "float64" else "float32"
        arrays.append(np.asarray(keras.ops.convert_to_numpy(tensor)).astype(wide))
    return arrays


__all__ = ["SwappedWeights", "as_arrays", "standard_dtype"]
