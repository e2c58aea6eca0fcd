"""`FinishWindow`: the last window of an epoch, where it is not full."""

import contextlib
from typing import Any

import keras


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

    def __init__(self):
        super().__init__()
        self._optimizer: Any = None
        self._was_given = True

    @classmethod
    def of_every_model(cls):
        """The callback that `fit` adds itself, which lets an optimizer be that has no windows."""
        callback = cls()
        callback._was_given = False
        return callback

    def on_train_begin(self, logs=None):
        optimizer = self.model.optimizer
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        if not hasattr(optimizer, "finish_window"):
            if not self._was_given:
                return
            raise ValueError(
                "FinishWindow is for a model compiled with `keras_cool.optimizers.Accumulate`, for "
                "example model.compile(keras_cool.optimizers.Accumulate('adam', 4), loss='mse'). "
                f"The optimizer is {type(optimizer).__name__}: leave the callback out."
            )
        self._optimizer = optimizer
        if optimizer.epoch_is_open:  # an earlier `fit` was interrupted
            self._finish()

    def on_epoch_begin(self, epoch, logs=None):
        if self._optimizer is not None:
            self._optimizer.epoch_is_open = True

    def on_test_begin(self, logs=None):
        if self._optimizer is not None:  # validation inside `fit`, before the epoch's end
            self._finish()

    def on_epoch_end(self, epoch, logs=None):
        if self._optimizer is not None:
            self._finish()
            self._optimizer.epoch_is_open = False

    def on_train_end(self, logs=None):
        self._optimizer = None

    def _finish(self):
        # The update is a step's, with the numbers that a `Schedule` gives those.
        with getattr(self.model, "during_step", contextlib.nullcontext)():
            self._optimizer.finish_window()


__all__ = ["FinishWindow"]
