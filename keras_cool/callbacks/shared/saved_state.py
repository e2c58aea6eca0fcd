"""`SavedState`: what a callback knows, saved and loaded with the weights of the model."""

import contextlib

import numpy as np

from keras_cool.keras_private import KerasSaveable


class SavedState(KerasSaveable):
    """Numbers of a callback that `model.save_weights` writes and `model.load_weights` reads.

    So a training that `keras.callbacks.BackupAndRestore` takes up again goes on with them, wherever
    the two callbacks stand in the list: they are attached to the model by `set_model`, which is
    before any `on_train_begin`. A file without them leaves them as they are.

    Args:
        **numbers: The names and the first values, floats or NumPy arrays of floats.
    """

    _are_read = True

    def __init__(self, **numbers):
        self._numbers = dict(numbers)

    def __getitem__(self, name):
        return self._numbers[name]

    def __setitem__(self, name, number):
        if name not in self._numbers:
            raise KeyError(name)
        self._numbers[name] = number

    def attach(self, model, name):
        """Lets the model save and load the numbers, until `detach`.

        Args:
            model: A Keras model.
            name: String, that of the callback: unlike for two callbacks of one training.
        """
        setattr(model, _attribute(name), self)

    def detach(self, model, name):
        """Ends what `attach` began, if it did."""
        if getattr(model, _attribute(name), None) is self:
            delattr(model, _attribute(name))

    def save_own_variables(self, store):
        """Writes the numbers into `store`, a mapping of names to arrays."""
        for name, number in self._numbers.items():
            store[name] = np.asarray(number, "float64")

    def load_own_variables(self, store):
        """Reads the numbers that are in `store`."""
        if not SavedState._are_read:
            return
        for name in self._numbers:
            if name in store.keys():
                value = np.array(store[name], "float64")
                self._numbers[name] = float(value) if value.ndim == 0 else value

    @staticmethod
    @contextlib.contextmanager
    def left_as_it_is():
        """A context in which `model.load_weights` reads no callback's numbers."""
        SavedState._are_read = False
        try:
            yield
        finally:
            SavedState._are_read = True

    def __reduce__(self):
        return object.__new__, (type(self),), vars(self)  # as any object; Keras wants a config

    def _obj_type(self):
        return "Loss"  # one of the kinds of object that Keras knows how to walk through


def _attribute(name):
    return f"state_of_{name}"
