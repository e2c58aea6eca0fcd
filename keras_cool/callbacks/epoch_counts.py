"""What the steps of an epoch have counted: in its logs, and not in the progress bar."""

import keras
from keras import ops

from keras_cool.callbacks.finish_window import FinishWindow

# What else is in the logs of an epoch and makes a line longer than a terminal.
LONG = (
    "gradient_noise_scale_error",
    "gradient_norm",
    "update_norm",
    "update_ratio",
    "weight_norm",
    "embedded_error",
)
WIDTH = 10  # half of Keras' own: a line with a loss, a metric and a noise scale has 80 columns


class EpochCounts(keras.callbacks.Callback):
    """Puts what a model counts (`model.step_counts()`) into the logs of each epoch.

    It comes before the callbacks that read them, and after `FinishWindow`, whose update counts.
    """

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            for name, value in self.model.step_counts().items():
                logs.setdefault(name, value)


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, in one line of a terminal: without what a model counts.

    An epoch in which steps were skipped, since a gradient was not finite, shows how many.
    """

    async_safe = True  # as Keras takes its own to be

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        counts = self.model.step_counts()
        self._skipped = _not_finite(counts)
        if counts:
            self.progbar.width = WIDTH

    def on_epoch_end(self, epoch, logs=None):
        counts = self.model.step_counts()
        shown = {k: v for k, v in (logs or {}).items() if k not in counts and k not in LONG}
        if skipped := _not_finite(counts) - self._skipped:
            shown["skipped_steps"] = skipped
        super().on_epoch_end(epoch, shown)


def _not_finite(counts):
    return counts.get("skipped_steps", 0) - counts.get("too_large_steps", 0)


def as_numbers(tensors):
    """Gives scalars by their names as Python numbers: counts are integers.

    Args:
        tensors: Dictionary of names and scalar tensors, outside of a step.
    """
    arrays = {name: ops.convert_to_numpy(tensor) for name, tensor in tensors.items()}
    return {name: array.item() for name, array in arrays.items()}


def with_own_callbacks(callbacks, accumulates, verbose):
    """Gives the callbacks of `fit` with those of a model with the mixin.

    Args:
        callbacks: Those given to `fit`: a list, one callback, a `CallbackList` or `None`.
        accumulates: Boolean, whether the model's optimizer is `Accumulate`: `FinishWindow` comes
            first then, unless it is among the callbacks.
        verbose: As for `fit`: without a progress bar if it is 0.
    """
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    given = callbacks.callbacks if is_list else keras.tree.flatten(callbacks) if callbacks else []
    before = [EpochCounts()]
    place = next((i + 1 for i, c in enumerate(given) if isinstance(c, FinishWindow)), 0)
    if accumulates and not place:
        before.insert(0, FinishWindow.of_every_model())
    if is_list:
        for callback in before:
            callback.set_model(callbacks.model)
        callbacks.callbacks[place:place] = before
        return callbacks
    has_bar = any(isinstance(c, keras.callbacks.ProgbarLogger) for c in given)
    after = [] if has_bar or verbose == 0 else [ProgressBar()]
    return [*given[:place], *before, *given[place:], *after]
