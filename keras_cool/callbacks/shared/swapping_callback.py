"""`SwappingCallback`: other weights at the end of each epoch, and those of the training back."""

import warnings
import weakref
from typing import Any

import keras

from keras_cool.callbacks.shared.place_in_list import place_in_list
from keras_cool.callbacks.shared.state_of_average import StateOfAverage
from keras_cool.callbacks.shared.when_fit_fails import WhenFitFails
from keras_cool.keras_private import running_fit
from keras_cool.optimizer_roles import chain, with_learning_rates


class SwappingCallback(keras.callbacks.Callback):
    """Base of callbacks that give a model other weights at the end of each epoch.

    Validation inside `fit`, the other callbacks at the end of an epoch and everything after `fit`
    see them. At the beginning of the next epoch, also of a further `fit`, the weights of the
    training come back, bit for bit; not if the model has been given others between two fits, which
    are trained then. What is kept is saved with the weights of the model.

    A subclass sets `_saved_as` and `_gives`, and writes `_check_model`, `_begin` and `_swap_in`.
    """

    _saved_as: str  # the name of the state
    _gives: str  # what it gives the model, in messages

    def __init__(self):
        super().__init__()
        self._state = self._new_state()
        self._fit: Any = None
        self._epoch: int | None = None
        self._is_training = False
        self._guard: WhenFitFails | None = None
        self._of: weakref.ref | None = None

    def _new_state(self):
        """Returns a `StateOfAverage` as before any training."""
        return StateOfAverage()

    def _check_model(self, model):
        """Raises a `ValueError` if the model is none for this callback; called first."""
        raise NotImplementedError

    def _begin(self, epoch):
        """Begins a training with epoch `epoch`, with the state that there is or a new one."""
        raise NotImplementedError

    def _swap_in(self, epoch):
        """Gives the model the other weights, with the swap of the state, if it is time."""
        raise NotImplementedError

    def set_model(self, model):
        """Takes up the model; Keras calls it before training."""
        super().set_model(model)
        if self._of is None or self._of() is not model:
            self._of = weakref.ref(model)
            self._state = self._new_state()
        self._state.attach(model, self._saved_as)
        self._state.reads = True

    def on_train_begin(self, logs=None):
        model, name = self.model, type(self).__name__
        self._check_model(model)
        _check_no_moving_average(model.optimizer, name, self._gives)
        self._fit = running_fit()
        if self._fit is not None:
            others = [c for c in self._fit[0].callbacks if c is not self]
            swapping = (SwappingCallback, keras.callbacks.SwapEMAWeights)
            other = next((c for c in others if isinstance(c, swapping)), None)
            if other is not None:
                second = type(other).__name__
                pair = f"Two callbacks {name}" if second == name else f"{name} and {second}"
                raise ValueError(
                    f"{pair} would swap the weights of one training. Give `fit` one of them."
                )
            place_in_list(self, self._fit[0])
        self._is_training, self._epoch, self._has_warned_of_change = True, None, False

    def on_epoch_begin(self, epoch, logs=None):
        if not self._is_training or epoch == self._epoch:
            return
        if self._epoch is None:
            self._guard = WhenFitFails(self.model, self.on_train_error)
            self._begin(epoch)
            self._state.reads = False  # a file that is loaded later is one of weights
        swapped = self._state.swapped
        if swapped.were_set and not self._has_warned_of_change:
            self._has_warned_of_change = True
            warnings.warn(
                "A callback has changed weights at the end of an epoch, when the model has "
                f"{self._gives} of {type(self).__name__}. Training continues from the last weights,"
                " without that change. Change them in `on_epoch_begin` or `on_train_batch_end`.",
                stacklevel=2,
            )
        swapped.put_back()
        self._epoch, self._epoch_is_open = epoch, True

    def on_test_begin(self, logs=None):
        if self._is_training:
            self._end_of_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self._end_of_epoch()

    def on_train_end(self, logs=None):
        if self.model is not None:  # on JAX this puts the state into the variables
            self._state.swapped.note()
        self._stop()

    def on_train_error(self):
        """Puts the weights of the last step back when an exception or Ctrl-C ends `fit`."""
        self._state.swapped.put_back()
        self._stop()

    def _begin_anew(self):
        """Takes a new state, with the weights that the model has."""
        self._state.detach(self.model, self._saved_as)
        self._state = self._new_state()
        self._state.attach(self.model, self._saved_as)

    def _stop(self):
        self._is_training, self._fit = False, None
        self._state.detach(self._model, self._saved_as)
        if self._guard is not None:
            self._guard.release()
            self._guard = None

    def _end_of_epoch(self):
        """Once an epoch: before its validation if there is one, or else at its end."""
        if self._is_training and self._epoch_is_open:
            self._epoch_is_open = False
            self._swap_in(self._epoch)
            self._state.swapped.note()


def _check_no_moving_average(optimizer, callback, gives):
    """Raises a `ValueError` if an optimizer, or one inside it, has `use_ema=True`."""
    for one in [o for part in with_learning_rates(optimizer) for o in (*chain(optimizer), part)]:
        if getattr(one, "use_ema", False):
            raise ValueError(
                f"{callback} gives the model {gives}, and {type(one).__name__}(use_ema=True) a "
                "moving average at the end of `fit`: only one of them can be in the model. Leave "
                f"out {callback}, or compile with an optimizer without `use_ema`."
            )


__all__ = ["SwappingCallback"]
