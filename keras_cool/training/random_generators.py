"""`RandomGenerators`: the generators that a process has once, and training draws from."""

import random

import numpy as np

from keras_cool import backend
from keras_cool.keras_private import set_unseeded_generator, unseeded_generator


class RandomGenerators:
    """Their state at one moment: Python's, NumPy's, Keras' own and the backend's.

    `fit` shuffles arrays with NumPy's (on JAX) or PyTorch's, and a `keras.utils.PyDataset` with
    Python's; layers without a seed draw from PyTorch's there.
    """

    def __init__(self):
        self._python = random.getstate()
        self._numpy = np.random.get_state()  # noqa: NPY002
        self._backend = backend.snapshots.random_state()
        self._generator = unseeded_generator()
        self._keras = backend.snapshots.copies(self._variables())

    def put_back(self):
        """Sets every generator to the state that it had."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        backend.snapshots.set_random_state(self._backend)
        set_unseeded_generator(self._generator)
        backend.snapshots.assign_copies(self._variables(), self._keras)

    def _variables(self):
        return [] if self._generator is None else [self._generator.state]
