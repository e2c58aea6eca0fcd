"""`BatchStatistics`: the moving statistics of batch normalisation, computed anew over the data."""

import contextlib

import keras
from keras import ops

from keras_cool import backend
from keras_cool.keras_private import (
    OverlayScope,
    all_layers,
    batch_size,
    batches_again,
    can_be_read_again,
    forward,
    own_generators,
)
from keras_cool.training.loss_shares import BatchWeight
from keras_cool.training.microbatches import Part, in_microbatches, take_apart
from keras_cool.training.random_generators import RandomGenerators

_MOVING = ("moving_mean", "moving_variance", "moving_stddev")  # the last one under `renorm`


class BatchStatistics:
    """The mean over the batches, weighted by their samples, of the means and variances of each.

    It is for every `keras.layers.BatchNormalization` that is trained, in training mode and with the
    weights that the model has now. The pass leaves no other trace: seeds, the further state of
    layers, the random generators, losses and metrics are as before.

    Args:
        model: A Keras model. With a `microbatch_size` the batches are those of the micro-batches.
        callback: The callback that needs them, for messages.
    """

    def __init__(self, model, callback):
        self._model, self._callback = model, type(callback).__name__
        self._layers = [
            layer
            for layer in all_layers(model)
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]
        self._given: set = set()  # the places of what a forward pass gives
        self._sums = None

    @property
    def exist(self):
        """Whether there is such a layer."""
        return bool(self._layers)

    @property
    def variables(self):
        """The variables that hold them."""
        held = [getattr(layer, name, None) for layer in self._layers for name in _MOVING]
        return [v for v in held if v is not None]

    def check(self, fit):
        """Raises a `ValueError` if there are such layers, and the data cannot be read again.

        Args:
            fit: What `running_fit` gave.
        """
        if self.exist and (fit is None or not can_be_read_again(fit[1])):
            given = "called outside of `fit`" if fit is None else "given a Python generator"
            raise ValueError(
                f"{self._callback} computes the statistics of batch normalisation anew, in a pass "
                f"over the training data, and was {given}, so that there are no data to read a "
                "second time. Give `fit` arrays, a tf.data.Dataset, a keras.utils.PyDataset or a "
                "torch DataLoader."
            )

    def assign(self, fit):
        """Computes them, and assigns them to their variables.

        Args:
            fit: What `running_fit` gave.
        """
        if not self.exist:
            return
        self.check(fit)
        variables, model = self.variables, self._model
        if self._sums is None:
            self._sums = backend.loops.SumsOverBatches(self._of_batch, model)
        with self._leaving_no_trace(fit[1]):
            try:
                sums = self._sums(batches_again(fit[1]))
            except Exception as error:
                error.add_note(
                    f"{self._callback} was computing the statistics of batch normalisation, by "
                    "model(x, training=True) on the batches of the training data."
                )
                raise
        if sums is None:
            raise ValueError(
                f"{self._callback} computes the statistics of batch normalisation in a pass over "
                "the training data, and these gave no batch when they were read a second time. "
                "Give `fit` data that can be read again, as arrays can."
            )
        samples, *sums = sums
        for place in self._given:
            variables[place].assign(sums[place] / ops.cast(samples, sums[place].dtype))

    @contextlib.contextmanager
    def _leaving_no_trace(self, iterator):
        model = self._model
        # Where the pass assigns, on PyTorch and TensorFlow.
        state = [*model.non_trainable_variables, *backend.snapshots.further_state(model)]
        before, generators = backend.snapshots.copies(state), RandomGenerators()
        own = [(generator, generator.get_state()) for generator in own_generators(iterator)]
        momentums = [layer.momentum for layer in self._layers]
        try:
            for layer in self._layers:
                layer.momentum = 0.0  # what it assigns are the statistics of its batch
            with backend.snapshots.keeping_mode(model):
                yield
        finally:
            for layer, momentum in zip(self._layers, momentums, strict=True):
                layer.momentum = momentum
            backend.snapshots.assign_copies(state, before)
            generators.put_back()
            for generator, bits in own:
                generator.set_state(bits)

    def _of_batch(self, inputs):
        """The number of samples and the sums over them, of the whole batch."""
        hooks = getattr(self._model, "step_hooks", None)
        with contextlib.nullcontext() if hooks is None else hooks.during_step():
            size = getattr(self._model, "microbatch_size", None)
            if size is None:
                return self._of_part(inputs)

            def compute(part, share):
                return Part(ops.zeros(()), None, None, [], BatchWeight(), self._of_part(part))

            tensors, pack = take_apart(inputs)
            return in_microbatches(compute, tensors, pack, size, [], list).measured

    def _of_part(self, inputs):
        """Those of what is computed at once."""
        moving = self.variables
        found: dict = {}  # a layer that is called twice has two statistics
        with OverlayScope([(v, ops.zeros(v.shape, v.dtype)) for v in moving]) as scope:
            scope.on_assigning = lambda place, value: found.setdefault(place, []).append(value)
            forward(self._model, inputs)
        # The weights stay: a layer may assign its own, as `SpectralNormalization` does.
        fixed = {id(v) for v in (*moving, *self._model.trainable_variables)}
        for variable, value in scope.updates:
            if id(variable) not in fixed:
                variable.assign(value)
        self._given.update(found)
        samples = ops.cast(batch_size(inputs), "float32")
        return [samples, *(_sum(found.get(i), samples, v) for i, v in enumerate(moving))]


def _sum(statistics, samples, variable):
    """The mean of the statistics of a layer's calls times the samples; nothing for no samples."""
    dtype = "float64" if variable.dtype == "float64" else "float32"
    if not statistics:
        return ops.zeros(variable.shape, dtype)
    mean = sum(ops.cast(s, dtype) for s in statistics) / len(statistics)
    return ops.where(samples > 0, mean * ops.cast(samples, dtype), 0)


__all__ = ["BatchStatistics"]
