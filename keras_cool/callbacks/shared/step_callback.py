"""`StepCallback`: base of the callbacks that act inside the compiled training step."""

import contextlib

import keras

from keras_cool.training.inject import give_mixin_for_callback


class StepCallback(keras.callbacks.Callback):
    """A callback that is also a part of the training step, compiled with it on every backend.

    While it is attached, from `set_model` to the end of training, the step is the one of
    `keras_cool.MultiGradientMixin`, which a model without it is given. It trains as it did all the
    same: `Accumulate` treats such a model as one without, until `keras_cool.inject` is called.
    The step calls the methods below, in the order that `training/step_hooks.py` shows. All of them
    run in the graph, see and assign variables as the step does, and cost nothing on the host.
    """

    def __init__(self):
        super().__init__()
        self._attached_to = None
        self._is_training = False

    @property
    def step_variables(self):
        """The variables that the step reads and assigns for this callback: part of its state."""
        return []

    @property
    def numbers_in_step(self):
        """Scalar tensors that the loss may depend on in a step without reading a variable."""
        return []

    def make_step_variables(self):
        """Makes these variables, on the devices of the model that it is attached to."""

    def _check_model(self, model):
        """Refuses a model, which has the mixin by now, before the callback is attached to it."""

    def during_step(self):
        """A context that is open during a step of training or of evaluation."""
        return contextlib.nullcontext()

    def begin_step(self):
        """Acts at the beginning of a training step."""

    def end_step(self):
        """Acts at the end of a training step, after the update."""

    observes_gradients = False

    def observe_gradients(self, gradients):
        """Sees what the optimizer is going to be given, where `observes_gradients` is true.

        Args:
            gradients: List of tensors, the gradients of the whole batch, unscaled, of the variables
                that the loss depends on. On TensorFlow those of an embedding are `IndexedSlices`.
        """

    observes_microbatches = False

    def measure_microbatch(self, gradients, share):
        """Returns a scalar tensor of a micro-batch, which is added up over those of a batch.

        It is called where `observes_microbatches` is true.

        Args:
            gradients: List of tensors or `None`, those of the micro-batch's loss times `share`.
            share: The micro-batch's share of the samples of the batch, a number or scalar tensor.
        """

    def observe_microbatches(self, measured, parts, samples, gradients):
        """Sees what `measure_microbatch` has added up over the micro-batches of a batch.

        Args:
            measured: Scalar tensor, the sum.
            parts: Scalar tensor, the number of the micro-batches.
            samples: Number of samples in the batch, an integer or a scalar tensor.
            gradients: List of tensors, the gradients of the whole batch.
        """

    def set_model(self, model):
        """Takes up the model; Keras calls it before training."""
        is_new = model is not self._model
        super().set_model(model)
        give_mixin_for_callback(model)
        self._check_model(model)
        model.check_no_train_step()  # now: TensorFlow cannot recover from an error while it traces
        model.step_hooks.attach(self)
        if is_new:
            with model.scope_of_variables():
                self.make_step_variables()
        self._attached_to = model
        self._is_training = False

    def on_train_begin(self, logs=None):
        self._is_training = True

    def on_train_end(self, logs=None):
        self.detach()

    def on_test_end(self, logs=None):
        if not self._is_training:  # of `model.evaluate`, outside of `fit`
            self.detach()

    def on_predict_end(self, logs=None):
        if not self._is_training:
            self.detach()

    def on_train_error(self):
        """Takes the callback out of the step when an exception ends `fit`, on a model with the
        mixin."""
        self.detach()

    def detach(self):
        """Takes the callback out of the training step."""
        self._is_training = False
        if self._attached_to is not None:
            self._attached_to.step_hooks.detach(self)
            self._attached_to = None


def build_optimizer(model):
    """Builds the optimizer of a model that is built, as TensorFlow would in the first step."""
    optimizer = model.optimizer
    if optimizer is not None and model.built and not optimizer.built:
        with model.scope_of_variables():
            optimizer.build(model.trainable_variables)
