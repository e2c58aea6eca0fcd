"""`FinishWindow`: the last window of an epoch, where it is not full."""

import contextlib

import keras

from keras_cool.optimizer_roles import accumulators, may_accumulate, optimizers_of


class FinishWindow(keras.callbacks.Callback):
    """Lets `keras_cool.optimizers.Accumulate` update with what it holds at the end of an epoch.

    The update is the one of a smaller last batch: the mean over the batches that there were. It
    comes before validation. A model with `keras_cool.MultiGradientMixin` has this callback by
    itself; for one without, put it first, so that the callbacks after it (`ModelCheckpoint` and the
    like) see the weights after the update.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(kc.optimizers.Accumulate("adam", 4), loss="mse")
    >>> x, y = keras.ops.ones((10, 2)), keras.ops.ones((10, 1))
    >>> finish = kc.callbacks.FinishWindow()
    >>> history = model.fit(x, y, batch_size=1, callbacks=[finish], verbose=0)
    >>> int(model.optimizer.iterations)  # 4 + 4 + 2 batches
    3

    Raises:
        ValueError: When training begins, if the model's optimizer does not accumulate.
    """

    acts_on_training_weights = True  # before other weights are swapped in

    def __init__(self):
        super().__init__()
        self._was_given = True
        self._is_training = False

    @classmethod
    def of_every_model(cls):
        """The callback that `fit` adds itself, which lets an optimizer be that has no windows."""
        callback = cls()
        callback._was_given = False
        return callback

    def on_train_begin(self, logs=None):
        self._is_training = True
        if self._was_given and not may_accumulate(*optimizers_of(self.model)):
            raise ValueError(
                "FinishWindow is for a model compiled with `keras_cool.optimizers.Accumulate`, for "
                "example model.compile(keras_cool.optimizers.Accumulate('adam', 4), loss='mse'). "
                f"The optimizer is {type(self.model.optimizer).__name__}: leave the callback out."
            )
        self._finish([o for o in self._optimizers() if o.epoch_is_open])  # `fit` was interrupted

    def on_epoch_begin(self, epoch, logs=None):
        for optimizer in self._optimizers():
            optimizer.epoch_is_open = True

    def on_test_begin(self, logs=None):
        if self._is_training:
            self._finish(self._optimizers())  # validation inside `fit`, before the epoch's end

    def on_epoch_end(self, epoch, logs=None):
        self._finish(self._optimizers())
        for optimizer in self._optimizers():
            optimizer.epoch_is_open = False

    def on_train_end(self, logs=None):
        self._is_training = False

    def _optimizers(self):
        return accumulators(*optimizers_of(self.model))

    def _finish(self, optimizers):
        # The update is a step's, with the numbers that a `Schedule` gives those.
        hooks = getattr(self.model, "step_hooks", None)
        with contextlib.nullcontext() if hooks is None else hooks.during_step():
            for optimizer in optimizers:
                optimizer.finish_window()


__all__ = ["FinishWindow"]
