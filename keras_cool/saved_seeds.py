"""`SavedSeeds`: the random seeds of a model, saved with its optimizer, since Keras saves none."""

import warnings
import weakref

import numpy as np

_PREFIX = "seed_"


class SavedSeeds:
    """Saves and loads the seeds of one model's random layers, in the order of its variables."""

    def __init__(self):
        self._model = lambda: None
        self._loaded = []

    def attach(self, model):
        """Makes `model` the one whose seeds are meant; seeds loaded before go into it."""
        self._model = weakref.ref(model)
        if self._loaded:
            self._assign(self._loaded)
            self._loaded = []

    def save(self, store):
        """Writes the seeds into `store`, a mapping of names to arrays."""
        for i, variable in enumerate(self._variables()):
            store[f"{_PREFIX}{i}"] = variable.numpy()

    def load(self, store):
        """Reads the seeds out of `store`; returns the rest of it."""
        names = [key for key in store.keys() if key.startswith(_PREFIX)]
        values = [np.array(store[f"{_PREFIX}{i}"]) for i in range(len(names))]
        if self._model() is None:
            self._loaded = values
        elif values:  # a file of a model without the mixin has none
            self._assign(values)
        return {key: store[key] for key in store.keys() if key not in names}

    def _assign(self, values):
        variables = self._variables()
        if len(values) != len(variables):
            warnings.warn(
                f"The file holds {len(values)} random seeds and the model has {len(variables)}: "
                "they are left as they are, and its random layers start from their first seeds.",
                stacklevel=2,
            )
            return
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def _variables(self):
        model = self._model()
        if model is None:
            return []
        weights = {id(v) for v in model.weights}
        return [v for v in model.variables if id(v) not in weights]
