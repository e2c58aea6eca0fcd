"""TensorFlow: variables exist before the step is traced."""

import contextlib
from typing import Any

import tensorflow as tf

from keras_cool.backend.tensorflow.found_size import FindingTheSize
from keras_cool.backend.tensorflow.updates import writing_after
from keras_cool.keras_private import (
    ModelBase,
    distribution_strategy,
    eager_build,
    symbolic_build,
)


class BackendStep(ModelBase):
    """Runs the common step as `train_step`."""

    train_function: Any

    def recording_nothing(self):
        """The context of a step, in which no operation is recorded but for an evaluation."""
        return contextlib.nullcontext()

    def scope_of_variables(self):
        """The context in which variables are made on all devices of the model."""
        return self.distribute_strategy.scope()

    def reading_state(self, *args):
        """The context in which variables have their values in `test_step(*args)`, and in
        `predict_step`: any."""
        return contextlib.nullcontext()

    def train_step(self, data):
        if self.takes_plain_step():
            return super().train_step(data)
        if self.run_eagerly:
            eager_build(self, data)
        elif distribution_strategy(self) is None:
            # Of a model that a callback has given the mixin since Keras looked whether to build it.
            symbolic_build(self, data_batch=data)
        with writing_after(tf.nest.flatten(data, expand_composites=True)):
            return self.run_step(data)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras defers building to the first trace; inside an evaluation no variable can be made.
        # What runs eagerly may ask for values, which symbolic tensors have not.
        deferred = self.run_eagerly or distribution_strategy(self) is not None
        if not deferred and not self.takes_plain_step():
            symbolic_build(self, iterator, data_batch)
        else:
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def make_train_function(self, force=False):
        """Makes the training function, one that finds the size of micro-batches if it is to."""
        if self._automatic_size is None:
            super().make_train_function(force)
        elif self.train_function is None or force:
            self.train_function = FindingTheSize(self, self._made_train_function)
        else:
            self.train_function.look_again()

    def _made_train_function(self):
        finding = self.train_function
        super().make_train_function(True)
        function, self.train_function = self.train_function, finding
        return function
