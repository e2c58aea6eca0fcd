"""`AccumulationSchedule`: another soft batch from this epoch on."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import keras

from keras_cool.optimizer_roles import accumulator, unwrap
from keras_cool.training.finish_window import FinishWindow


class AccumulationSchedule(keras.callbacks.Callback):
    """Changes the soft batch of `keras_cool.optimizers.Accumulate` at the beginning of epochs.

    From each epoch named the windows have the number of batches given for it, until the next epoch
    named; before the first of them they have the number that the optimizer was made with, or has
    kept from an earlier `fit`. Nothing is compiled again. An epoch's number decides alone, so that
    training which begins later (`initial_epoch`, `keras.callbacks.BackupAndRestore`) has the right
    one. A window that is not full at the end of an epoch ends with it, as the optimizer's
    `last_window` says: this callback does what `FinishWindow` does. A window that is carried on is
    full at the next batch if it has as many as the new number asks for. The place in the list of
    callbacks does not matter.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(kc.optimizers.Accumulate("adam", steps=1), loss="mse")
    >>> x, y = keras.ops.ones((8, 2)), keras.ops.ones((8, 1))
    >>> grow = kc.callbacks.AccumulationSchedule({0: 1, 2: 4})
    >>> history = model.fit(x, y, batch_size=1, epochs=3, callbacks=[grow], verbose=0)
    >>> int(model.optimizer.iterations)  # 8 + 8 + 2
    18

    Args:
        schedule: Dictionary of integers: the epoch, counted from 0, and the number of batches that
            make up a window from it on, at least 1.

    Raises:
        TypeError: If `schedule` is not a dictionary of integers, or, when training begins, if the
            optimizer's own `steps` are a function.
        ValueError: If it is empty, an epoch is negative or a number of batches not positive, or,
            when training begins, if the model's optimizer does not accumulate.

    Reference:
        Smith, Kindermans, Ying and Le, 2018, "Don't Decay the Learning Rate, Increase the Batch
        Size", section 3.
    """

    acts_on_training_weights = True  # before other weights are swapped in

    def __init__(self, schedule):
        super().__init__()
        _check(schedule)
        self.schedule = {int(epoch): int(steps) for epoch, steps in sorted(schedule.items())}
        self._optimizer: Any = None
        self._windows = FinishWindow.of_every_model()

    def set_model(self, model):
        """Takes up the model; Keras calls it before training."""
        super().set_model(model)
        self._windows.set_model(model)

    def on_train_begin(self, logs=None):
        optimizer = accumulator(self.model.optimizer)
        if optimizer is None:
            raise ValueError(
                "AccumulationSchedule is for a model compiled with "
                "`keras_cool.optimizers.Accumulate`, for example model.compile("
                "keras_cool.optimizers.Accumulate('adam', steps=1), loss='mse'). The optimizer is "
                f"{type(unwrap(self.model.optimizer)).__name__}."
            )
        if callable(optimizer.steps):
            raise TypeError(
                "AccumulationSchedule sets the `steps` of Accumulate, and this one has a function "
                "for them, of the number of updates. Leave the callback out, or compile with an "
                f"integer: Accumulate(..., steps={next(iter(self.schedule.values()))})."
            )
        self._optimizer = optimizer
        self._windows.on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        self._windows.on_epoch_begin(epoch, logs)
        begun = [steps for first, steps in self.schedule.items() if first <= epoch]
        if begun and self._optimizer.steps != begun[-1]:
            self._optimizer.steps = begun[-1]

    def on_test_begin(self, logs=None):
        self._windows.on_test_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._windows.on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        self._windows.on_train_end(logs)
        self._optimizer = None


def _check(schedule):
    example = "For example: AccumulationSchedule({0: 1, 5: 4})."
    if not isinstance(schedule, Mapping):
        raise TypeError(
            "AccumulationSchedule takes a dictionary of epochs and the batches of a window. It was "
            f"given {schedule!r} of type {type(schedule).__name__}. {example}"
        )
    if not schedule:
        raise ValueError(f"AccumulationSchedule was given an empty dictionary. {example}")
    for epoch, steps in schedule.items():
        if not _is_integer(epoch) or not _is_integer(steps):
            raise TypeError(
                "AccumulationSchedule takes a dictionary of integers. It was given "
                f"{{{epoch!r}: {steps!r}}}. {example}"
            )
        if epoch < 0 or steps < 1:
            raise ValueError(
                "The epochs of AccumulationSchedule count from 0, and a window has at least 1 "
                f"batch. It was given {{{epoch}: {steps}}}. {example}"
            )


def _is_integer(value):
    return isinstance(value, Integral) and not isinstance(value, bool)


__all__ = ["AccumulationSchedule"]
