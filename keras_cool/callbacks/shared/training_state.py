"""`TrainingState`: all that a training step changes, saved and restored bit for bit."""

import keras
import numpy as np

from keras_cool import backend
from keras_cool.callbacks.shared.files import replacing
from keras_cool.callbacks.shared.state_of_average import StateOfAverage
from keras_cool.optimizer_roles import optimizers_of
from keras_cool.training.step_state import variables_of


class TrainingState:
    """The state of a model's training at one moment.

    It is made of the weights, the state of layers and their random seeds, the variables of the
    optimizers, the metrics, and on PyTorch the buffers of wrapped modules: every bit of them, in
    the dtype they have, on each replica, laid out over the devices as they are. Variables that came
    to be later stay as they are when it is put back. An average of the weights that a callback
    keeps goes back too; it is on the devices in any case.

    Args:
        model: A Keras model with its optimizer, neither within a step. On JAX its variables hold
            their values after a look at `callback.model`.
        path: `pathlib.Path` or `None`. If given, the state is in that file, which is replaced whole
            or not at all, and else in copies on the devices. Defaults to `None`.
    """

    def __init__(self, model, path=None):
        self._variables = variables_of(model)
        averages = [v for v in vars(model).values() if isinstance(v, StateOfAverage)]
        self._averages = [(average, average.keep()) for average in averages]
        self._path = path
        if path is None:
            self._copies = backend.snapshots.copies(self._variables)
        else:
            copies = (copy for v in self._variables for copy in backend.snapshots.copies([v]))
            with replacing(path) as new:
                np.savez(
                    new,
                    **{str(i): backend.snapshots.as_bytes(copy) for i, copy in enumerate(copies)},
                )

    def move(self, path):
        """Puts the file of the state in the place of another one, if it has one."""
        if self._path is not None:
            self._path.replace(path)
            self._path = path

    def put_back(self):
        """Assigns to every variable the value that it had. It may be called again."""
        for average, kept in self._averages:
            average.put_back(kept)
        if self._path is None:
            backend.snapshots.assign_copies(self._variables, self._copies)
            return
        with np.load(self._path) as file:
            values = [file[str(i)] for i in range(len(file.files))]
        backend.snapshots.assign_copies(self._variables, values)


def weights_are_finite(model):
    """Whether every entry of every weight is finite."""
    return _are_finite(model.weights)


def optimizer_is_finite(model):
    """Whether all that the optimizers know of each weight is finite.

    Its scalars may be infinite by their meaning, and are not looked at.
    """
    return _are_finite([v for o in optimizers_of(model) for v in o.variables if len(v.shape)])


def _are_finite(variables):
    values = [v.value for v in variables if _is_float(v)]
    return bool(backend.updates.are_finite(values)) if values else True


def _is_float(variable):
    return "float" in keras.backend.standardize_dtype(variable.dtype)
