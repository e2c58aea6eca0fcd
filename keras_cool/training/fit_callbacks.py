"""What the steps of an epoch have counted: in its logs, and not in the progress bar."""

import sys

import keras
import numpy as np
from keras import ops

from keras_cool.optimizer_roles import gradient_estimator
from keras_cool.training.finish_window import FinishWindow

# What else is in the logs of an epoch and makes a line longer than a terminal.
LONG = (
    "gradient_noise_scale_error",
    "gradient_norm",
    "update_norm",
    "update_ratio",
    "weight_norm",
    "embedded_error",
)
COLUMNS = 80  # of a terminal
WIDTH = 10  # of the bar, half of Keras' own
TIME = len(" 9999s 999ms/step")


class EpochCounts(keras.callbacks.Callback):
    """Puts what a model counts (`model.step_counts()`) into the logs of each epoch.

    It comes before the callbacks that read them, and after `FinishWindow`, whose update counts.
    Training stops where the method of the steps says why it is over.

    Args:
        verbose: Whether to write that too.
    """

    def __init__(self, verbose):
        super().__init__()
        self.verbose = verbose

    def on_epoch_end(self, epoch, logs=None):
        method = gradient_estimator(self.model.optimizer)
        reason = None if method is None else method.end_epoch()
        if reason is not None:
            self.model.stop_training = True
            if self.verbose:
                sys.stdout.write(f"\nEpoch {epoch + 1}: {reason}\n")
        if logs is not None:
            for name, value in self.model.step_counts().items():
                logs.setdefault(name, value)


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, in lines of 80 columns and without what a model counts.

    What does not fit beside the bar at the end of an epoch (validation, what callbacks add) stands
    in lines below it. An epoch in which steps were skipped, since a gradient was not finite, shows
    how many.
    """

    async_safe = True  # as Keras takes its own to be

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._skipped = _not_finite(self.model.step_counts())
        self._beside = ()
        self.progbar.width = WIDTH

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self._beside = logs or ()

    def on_epoch_end(self, epoch, logs=None):
        counts = self.model.step_counts()
        shown = {k: v for k, v in (logs or {}).items() if k not in counts and k not in LONG}
        if skipped := _not_finite(counts) - self._skipped:
            shown["skipped_steps"] = skipped
        if self.verbose != 1 or not keras.config.is_interactive_logging_enabled():
            super().on_epoch_end(epoch, shown)
            return
        beside, below = self._in_lines(shown)
        super().on_epoch_end(epoch, beside)
        for line in below:
            sys.stdout.write(f"{line}\n")

    def _in_lines(self, shown):
        """The values that stand beside the bar, and the lines of the others."""
        running = {name: value for name, value in shown.items() if name in self._beside}
        others = {name: value for name, value in shown.items() if name not in running}
        steps = str(self.target or self.seen)
        taken = len(f"{steps}/{steps} ") + WIDTH + TIME
        taken += sum(len(_entry(*item)) for item in running.items())
        lines = [""]
        for name, value in others.items():
            entry = _entry(name, value)
            if taken + len(entry) > COLUMNS:
                lines.append("")
                taken = 0
            taken += len(entry)
            lines[-1] += entry
            if len(lines) == 1:
                running[name] = value
        return running, lines[1:]


def _entry(name, value):
    """A value in a line, as the progress bar of Keras has it; a count is a whole number."""
    if isinstance(value, int):
        return f" - {name}: {value}"
    value = float(np.mean(value))
    return f" - {name}: {value:.4f}" if abs(value) > 1e-3 else f" - {name}: {value:.4e}"


def _not_finite(counts):
    return counts.get("skipped_steps", 0) - counts.get("too_large_steps", 0)


def as_numbers(tensors):
    """Returns scalars by their names as Python numbers: counts are integers.

    Args:
        tensors: Dictionary of names and scalar tensors, outside of a step.
    """
    arrays = {name: ops.convert_to_numpy(tensor) for name, tensor in tensors.items()}
    return {name: array.item() for name, array in arrays.items()}


def with_own_callbacks(callbacks, accumulates, verbose):
    """Returns the callbacks of `fit`, with those of a model with the mixin added.

    Args:
        callbacks: Those given to `fit`: a list, one callback, a `CallbackList` or `None`.
        accumulates: Boolean, whether the model's optimizer is `Accumulate`: `FinishWindow` comes
            first then, unless it is among the callbacks.
        verbose: As for `fit`: without a progress bar if it is 0.
    """
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    given = callbacks.callbacks if is_list else keras.tree.flatten(callbacks) if callbacks else []
    before = [EpochCounts(verbose)]
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
