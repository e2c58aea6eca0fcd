"""PyTorch: the step runs without recording; only an evaluation records."""

import contextlib
from typing import Any

import keras
import torch

from keras_cool.keras_private import ModelBase, all_layers


class BackendStep(ModelBase):
    """Runs the common step as `train_step`."""

    train_function: Any

    def recording_nothing(self):
        """The context of a step, in which no operation is recorded but for an evaluation."""
        return torch.no_grad()

    def scope_of_variables(self):
        """The context in which variables are made on all devices of the model: any."""
        return contextlib.nullcontext()

    def reading_state(self, *args):
        """The context in which variables have their values in `test_step(*args)`, and in
        `predict_step`: any."""
        return contextlib.nullcontext()

    def train_step(self, data):
        if self.takes_plain_step():
            return super().train_step(data)
        with self.recording_nothing():
            return self.run_step(data)

    def make_train_function(self, force=False):
        """Makes the training function, for layers that can be evaluated at a point."""
        wrapped = [
            layer.name
            for layer in all_layers(self)
            if isinstance(layer, keras.layers.TorchModuleWrapper) and layer.trainable_variables
        ]
        if wrapped and not self.takes_plain_step():
            raise ValueError(
                f"The layers {wrapped} wrap a `torch.nn.Module`, which reads its own parameters "
                "and not the values at the point of an evaluation, so that it would not be "
                "trained. Write them with Keras layers, or compile with a plain Keras optimizer."
            )
        if self.train_function is None or force:
            super().make_train_function(True)
            if self._automatic_size is not None:
                self.train_function = self._finding_the_size(self.train_function)

    def _finding_the_size(self, function):
        """A training function of Keras', with the largest micro-batches that fit."""

        def finding_the_size(data):
            return self._automatic_size.run(self, data, lambda: function(data))

        return finding_the_size
