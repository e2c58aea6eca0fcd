"""TensorFlow: variables exist before the step is traced."""

import contextlib

import tensorflow as tf

from keras_cool.backend.tensorflow.updates import after
from keras_cool.keras_private import (
    ModelBase,
    distribution_strategy,
    eager_build,
    symbolic_build,
)


class BackendStep(ModelBase):
    """Runs the common step as `train_step`."""

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
        with after(tf.nest.flatten(data, expand_composites=True)):
            return self.run_step(data)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras defers building to the first trace; inside an evaluation no variable can be made.
        # What runs eagerly may ask for values, which symbolic tensors have not.
        deferred = self.run_eagerly or distribution_strategy(self) is not None
        if not deferred and not self.takes_plain_step():
            symbolic_build(self, iterator, data_batch)
        else:
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
