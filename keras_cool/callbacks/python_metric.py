"""`PythonMetric`: a metric in plain Python, and the model that is best by it."""

import json
import math
import re
import warnings

import keras
import numpy as np

from keras_cool.callbacks.shared.best_weights import BestWeights
from keras_cool.callbacks.shared.files import checked_path
from keras_cool.callbacks.shared.frequency import checked_frequency
from keras_cool.callbacks.shared.inspecting import inspecting
from keras_cool.callbacks.shared.log_values import as_log_values
from keras_cool.callbacks.shared.saved_state import SavedState


class PythonMetric(keras.callbacks.Callback):
    """Evaluates the model by a function in plain Python, and keeps the model that is best by it.

    The function is called between two steps, where no tensor metric can be: it may translate, rank,
    call `model.predict` or `model.evaluate`, or use another library. Training continues as if it
    had not been called. What it returns joins the logs, where `EarlyStopping`, `ModelCheckpoint`,
    `ReduceLROnPlateau`, `CSVLogger`, `TensorBoard`, the history and the progress bar find it as
    they find a metric.

    **Put it first in the list of callbacks**: Keras calls them in order, and those after it see its
    values. (Those that change the weights at the end of an epoch, `FinishWindow` and
    `SwapEMAWeights`, go before it.) `EarlyStopping`, `ModelCheckpoint` and `ReduceLROnPlateau` need
    `mode="max"` or `"min"` for a metric that is not Keras'; in front of it they warn that the
    metric "is not available".

    The best value, its epoch, the patience and the count of the steps are saved with the weights,
    so `keras.callbacks.BackupAndRestore` resumes with them. The best weights are those in the
    file `save_best`; without it they are only in memory, and lost when the process ends.

    Exceptions in the function propagate, with a note that names the callback and the epoch. NaN is
    never the best; a warning says so once.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_cool as kc
    >>> x, y = np.random.normal(size=(32, 4)), np.arange(32) % 3
    >>> def f1(model):  # of the last class
    ...     predicted = model.predict(x, verbose=0).argmax(axis=-1) == 2
    ...     return 2 * np.sum(predicted & (y == 2)) / (np.sum(predicted) + np.sum(y == 2))
    >>> model = keras.Sequential([keras.layers.Dense(3, activation="softmax")])
    >>> model.compile("adam", loss="sparse_categorical_crossentropy")
    >>> metric = kc.callbacks.PythonMetric(f1, "f1", save_best="best.weights.h5")
    >>> history = model.fit(x, y, epochs=3, callbacks=[metric], verbose=0)
    >>> sorted(history.history)
    ['f1', 'loss']
    >>> metric.best == max(history.history["f1"])
    True

    Args:
        function: A function of the model that returns a number, or a dictionary of names and
            numbers.
        name: String. What a number is called in the logs; of a dictionary, whose entries are called
            by their keys, the one that decides which model is best.
        mode: String, `"max"` or `"min"`: whether the largest or the smallest value is the best.
            Defaults to `"max"`.
        frequency: `"epoch"`, at the end of each epoch and after validation; or a positive integer,
            every so many steps, counted over all epochs. With `steps_per_execution` it is at the
            first end of an execution from there on. The latest values are then in the logs of every
            batch and epoch after. Defaults to `"epoch"`.
        save_best: String or `Path`, or `None`. The file that holds the best model, written whenever
            there is a better one and replaced as a whole, so that a crash leaves the one before.
            It ends with `.weights.h5` (`model.save_weights`) or `.keras` (`model.save`). Defaults
            to `None`.
        restore_best: Boolean. Whether the model gets its best weights back at the end of the
            training, from `save_best` or from memory. As in `EarlyStopping` these are the
            weights only: the optimizer stays as it is. Defaults to `False`.
        patience: Positive integer or `None`. Training stops after so many evaluations in a row that
            were not better than the best. Defaults to `None`.

    Raises:
        TypeError: If `function` is not callable or returns what is not a number, `name` is not a
            string.
        ValueError: If another argument is not as above, the function's dictionary has no `name`, or
            the logs have an entry of that name already.
        OSError: If `save_best` cannot be written; before training.
    """

    def __init__(
        self,
        function,
        name,
        mode="max",
        frequency="epoch",
        save_best=None,
        restore_best=False,
        patience=None,
    ):
        super().__init__()
        if not callable(function):
            raise TypeError(
                "PythonMetric takes a function of the model, for example "
                "PythonMetric(lambda model: f1(y, model.predict(x)), 'f1'). "
                f"It was given {function!r}."
            )
        if not isinstance(name, str):
            raise TypeError(
                "The `name` of PythonMetric is what the value is called in the logs, for example "
                f"PythonMetric(function, 'f1'). It was given {name!r}."
            )
        if mode not in ("max", "min"):
            raise ValueError(
                "The `mode` of PythonMetric is 'max' or 'min': which value is best. It was given "
                f"{mode!r}."
            )
        if patience is not None and (not isinstance(patience, int) or patience < 1):
            raise ValueError(
                "The `patience` of PythonMetric is a positive integer, the number of evaluations "
                f"without a better one after which training stops, or None. Given: {patience!r}."
            )
        self.function = function
        self.name = name
        self.mode = mode
        self.frequency = checked_frequency(frequency, self)
        if save_best is not None:
            save_best = checked_path(
                save_best, "PythonMetric(save_best=...)", (".weights.h5", ".keras")
            )
        self.save_best = save_best
        self.restore_best = bool(restore_best)
        self.patience = patience
        self._best_weights = BestWeights(save_best, self.restore_best)
        self._state = _new_state()
        self._latest = {}
        if self.frequency != "epoch":  # else the logs of each step can stay on the device
            self.on_train_batch_end = self._after_steps

    @property
    def best(self):
        """The best value so far, a float, or `None` before there is one."""
        best = self._state["best"]
        return None if math.isnan(best) else best

    @property
    def best_epoch(self):
        """The epoch of the best value, counted from 0, or `None` before there is one."""
        return None if self.best is None else int(self._state["best_epoch"])

    def set_model(self, model):
        """Begins a training anew; `BackupAndRestore` puts what was known in its place later."""
        super().set_model(model)
        self._state = _new_state()
        self._state.attach(model, self._state_name)
        self._best_weights.forget()
        self._has_begun = self._has_warned = False

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._last_batch = epoch, -1
        if not self._has_begun:  # what was saved has been read by now
            self._has_begun = True
            self._latest = _decoded(self._state["latest"])
            if self.best is not None and not self._best_weights.exist():
                self._warn_of_lost_weights()

    def on_epoch_end(self, epoch, logs=None):
        if self.frequency == "epoch":
            self._evaluate(f"at the end of epoch {epoch}")
        self._add_to(logs)

    def on_train_end(self, logs=None):
        if self.best is not None and self._best_weights.exist():
            self._best_weights.restore(self.model)
        self._state.detach(self.model, self._state_name)
        self._best_weights.forget()

    def _after_steps(self, batch, logs=None):
        # The last execution of an epoch may name more steps than there were batches.
        batch = min(batch, (self.params.get("steps") or math.inf) - 1)
        before = int(self._state["steps"])
        steps = before + batch - self._last_batch
        self._last_batch = batch
        self._state["steps"] = steps
        if steps // self.frequency > before // self.frequency:
            self._evaluate(f"after {steps} steps, in epoch {self._epoch}")
        self._add_to(logs)

    def _evaluate(self, when):
        model = self.model
        try:
            with inspecting(model):
                result = self.function(model)
        except Exception as error:
            error.add_note(
                f"The function of {self._title} raised this {when} (the first epoch is 0)."
            )
            raise
        self._latest = as_log_values(result, self.name, self._title)
        self._state["latest"] = _encoded(self._latest)
        self._judge(self._latest[self.name], model, when)

    def _judge(self, value, model, when):
        if math.isnan(value) and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{self._title} got NaN {when}. It is in the logs, and is never the best; training "
                "continues. Further NaN are not warned about.",
                stacklevel=2,
            )
        sign = 1 if self.mode == "max" else -1
        is_best = not math.isnan(value) and (self.best is None or sign * (value - self.best) > 0)
        if is_best:
            self._state["best"], self._state["best_epoch"] = value, self._epoch
            self._state["wait"] = 0
            self._best_weights.keep(model)
            return
        self._state["wait"] += 1
        if self.patience is not None and self._state["wait"] >= self.patience:
            model.stop_training = True

    def _add_to(self, logs):
        taken = [key for key in self._latest if key in logs]
        if taken:
            raise ValueError(
                f"{self._title} would overwrite {taken[0]!r}, which is in the logs already, with a "
                "value of its own. Give it another name."
            )
        logs.update(self._latest)

    def _warn_of_lost_weights(self):
        warnings.warn(
            f"{self._title} resumes after an interruption, with {self.best:g} as the best value, "
            "and the weights of it are gone. The model keeps its last weights unless a better "
            "value comes. With PythonMetric(..., save_best='best.weights.h5') and the file in its "
            "place they survive.",
            stacklevel=2,
        )

    @property
    def _title(self):
        return f"{type(self).__name__}({self.name!r})"

    @property
    def _state_name(self):
        return "evaluate_" + re.sub(r"\W", "_", self.name)


def _new_state():
    return SavedState(best=math.nan, best_epoch=0.0, wait=0.0, steps=0.0, latest=_encoded({}))


def _encoded(values):
    """A dictionary of floats as an array of the bytes of its JSON."""
    return np.frombuffer(json.dumps(values).encode(), "uint8").astype("float64")


def _decoded(array):
    return json.loads(array.astype("uint8").tobytes())


__all__ = ["PythonMetric"]
