"""The loss of a model at other weights than its own, which leaves the model as it was."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

from keras_cool import backend
from keras_cool.training.step_state import variables_of


class LossAtWeights(contextlib.ExitStack):
    """A context whose `at(weights)` is the loss that `model.evaluate` gives at other weights.

    Arrays of one batch go through `model.test_on_batch`, with the same result: `evaluate` takes up
    to a tenth of a second to make a dataset of them. All losses see the same random numbers. At its
    end the weights, the state of layers, seeds and metrics are bit for bit what they were at its
    beginning.

    Args:
        model: A compiled Keras model.
        variables: List of the variables that take the weights.
        x, y, sample_weight, batch_size: As for `model.evaluate`.

    Raises:
        ValueError: If there is no `x`, or it is an iterator, which could be gone through only once.
    """

    def __init__(self, model, variables, x, y=None, sample_weight=None, batch_size=None):
        super().__init__()
        if x is None or isinstance(x, Iterator):
            given = "none" if x is None else f"a {type(x).__name__}, which is read only once"
            raise ValueError(
                "The loss surface needs data to evaluate the model on, again and again: arrays or "
                f"a dataset. It was given {given}. For example: plot('trajectory.png', x, y)."
            )
        self._model = model
        self._variables = variables
        self._data = {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": batch_size}
        self._batch = _one_batch((x, y, sample_weight), batch_size or 32)
        self._random_numbers = backend.snapshots.SameRandomNumbers()

    def __enter__(self):
        model = self._model
        backend.snapshots.separate(variables_of(model))
        weights = {id(v) for v in model.weights}
        metrics = [v for metric in model.metrics for v in metric.variables]
        before = [(v, _array(v)) for v in [*model.variables, *metrics]]
        self._seeds = [(v, a) for v, a in before if id(v) not in weights]
        with self._random_numbers:
            pass
        self.callback(_assign, before)
        return super().__enter__()

    def at(self, weights):
        """The loss at a vector of weights, a float."""
        _assign(self._seeds)
        _assign(zip(self._variables, _split(weights, self._variables), strict=True))
        with self._random_numbers:
            logs = self._evaluate()
        if "loss" not in logs:
            raise ValueError(
                f"The loss surface needs the 'loss' of `model.evaluate`, which gave {list(logs)}. "
                "Compile the model with a loss, or let its `test_step` return one."
            )
        return float(logs["loss"])

    def _evaluate(self):
        if self._batch is not None:
            return self._model.test_on_batch(*self._batch, return_dict=True)
        return self._model.evaluate(**self._data, return_dict=True, verbose=0)


def _one_batch(data, batch_size):
    """The data as arrays of Keras' float type, or `None` if they are not arrays of one batch."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    are_arrays = all(isinstance(leaf, np.ndarray) or _is_dense_tensor(leaf) for leaf in leaves)
    if not are_arrays or len(leaves[0]) > batch_size:
        return None
    return keras.tree.map_structure(lambda a: None if a is None else _in_floatx(a), data)


def _is_dense_tensor(leaf):
    return keras.ops.is_tensor(leaf) and hasattr(leaf, "__getitem__")


def _in_floatx(array):
    # As `evaluate` has it.
    is_float64 = isinstance(array, np.ndarray) and array.dtype == np.float64
    return array.astype(keras.config.floatx()) if is_float64 else array


def _array(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def _split(weights, variables):
    ends = np.cumsum([int(np.prod(v.shape)) for v in variables])
    pieces = np.split(np.asarray(weights), ends[:-1])
    return [piece.reshape(v.shape) for piece, v in zip(pieces, variables, strict=True)]


def _assign(pairs):
    for variable, array in pairs:
        variable.assign(array)
