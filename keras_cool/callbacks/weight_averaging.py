"""`WeightAveraging`: stochastic weight averaging (SWA)."""

import math
import warnings
from numbers import Integral, Real
from typing import Any

from keras_cool import backend
from keras_cool.callbacks.shared.batch_statistics import BatchStatistics
from keras_cool.callbacks.shared.frequency import checked_frequency
from keras_cool.callbacks.shared.learning_rates import rated_optimizers
from keras_cool.callbacks.shared.state_of_average import StateOfAverage
from keras_cool.callbacks.shared.swapping_callback import SwappingCallback
from keras_cool.keras_private import learning_rate_schedule, running_fit
from keras_cool.optimizer_roles import chain, gradient_estimator


class WeightAveraging(SwappingCallback):
    r"""Averages the weights over the last part of training: stochastic weight averaging (SWA).

    The trainable weights \(\theta_i\) at the end of the epochs `start`, `start + 1`, ..., or every
    so many batches from there on, have the mean

    \[ \bar\theta_n = \bar\theta_{n-1} + \frac{\theta_n - \bar\theta_{n-1}}{n}, \]

    which often generalises better than the last weights, above all with a learning rate that is
    constant and rather large: `learning_rate`.

    From epoch `start` on, whoever looks at the model at the end of an epoch sees the average:
    validation in `fit`, `ModelCheckpoint`, `EarlyStopping`, `PythonMetric` and other callbacks, and
    after `fit` all that the model does. Training itself continues from the last weights, bit for
    bit as without this callback. Its place in the list of callbacks does not matter.

    The moving statistics of batch normalisation belong to other weights than the average. So the
    training data are read once more at the end of each epoch, forwards only, and each
    `keras.layers.BatchNormalization` that is trained gets the mean of the statistics of the
    batches, weighted by their samples. A dataset of `tf.data` that shuffles itself, and whatever
    else keeps the order of the data for itself, goes on in another order after that. Without such
    layers nothing is read.

    All other weights (seeds, what is not trainable) are those of the last step. A further `fit`
    with the same callback and an `initial_epoch` after `start` continues as one training would;
    from an epoch up to `start` a new average begins, from the weights that the model has. After an
    exception or Ctrl-C the model has the weights of the last step, and the average is kept for the
    next `fit`. All of it is saved with the weights, so that `keras.callbacks.BackupAndRestore`
    resumes with it. The average is one more copy of the weights on the device, and at the end of an
    epoch the last weights are another one. Weights that are not finite are left out of the average.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1), loss="mse")
    >>> x = keras.random.normal((64, 2), seed=1)
    >>> average = kc.callbacks.WeightAveraging(start=6, learning_rate=0.05)
    >>> history = model.fit(x, x[:, :1], epochs=10, callbacks=[average], verbose=0)
    >>> average.count  # the weights after the epochs 6, 7, 8 and 9
    4

    Args:
        start: Integer, the epoch, counted from 0, at whose end weights are averaged first.
        frequency: `"epoch"`: the weights at the end of each epoch; or a positive integer: those
            after every so many batches, from the beginning of epoch `start` on. With
            `steps_per_execution` it is at the first end of an execution from there on. Defaults to
            `"epoch"`.
        learning_rate: Float, what the learning rate of the optimizer is set to when epoch `start`
            begins; other callbacks may change it from there on. `None`: it is left alone. Defaults
            to `None`.

    Attributes:
        count: Integer, how many times weights have been averaged.

    Raises:
        ValueError: If an argument is out of its range; when training begins, if the optimizer keeps
            an average of its own (`use_ema=True`), or has a schedule where a `learning_rate` is
            given, or if a Python generator gives the data of a model with batch normalisation.

    Reference:
        Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, 2018, "Averaging weights leads to wider
        optima and better generalization", algorithm 1.
    """

    _saved_as = "weight_averaging"
    _gives = "the average"

    def __init__(self, start, frequency="epoch", learning_rate=None):
        super().__init__()
        self.start = _checked_start(start)
        self.frequency = checked_frequency(frequency, self)
        self.learning_rate = _checked_rate(learning_rate)
        self._statistics: Any = None
        if self.frequency != "epoch":  # else the logs of each step can stay on the device
            self.on_train_batch_end = self._after_steps

    @property
    def count(self):
        """How many times weights have been averaged, an integer."""
        return self._state.count

    def _new_state(self):
        return StateOfAverage(batches=0.0, has_set_rate=0.0)

    def _check_model(self, model):
        if self.learning_rate is not None:
            _check_constant_rates(model)
        self._statistics = BatchStatistics(model, self)
        self._statistics.check(running_fit())
        self._has_warned = False

    def _begin(self, epoch):
        state, variables = self._state, self.model.trainable_variables
        was_loaded = state.was_loaded
        state.take_up(variables, self._statistics.variables)
        if state.swapped.were_set:  # what they were set to is to be trained
            state.swapped.forget()
        are_others = state.count > 0 and not _are_same(state.variables, variables)
        if epoch <= self.start:
            if not was_loaded or are_others:
                self._begin_anew()
        elif are_others:
            warnings.warn(
                "WeightAveraging begins a new average: `trainable` was changed since the last "
                f"`fit`, and the {state.count} times that it has averaged were of other weights.",
                stacklevel=2,
            )
            state.swapped.put_back()
            self._begin_anew()

    def on_epoch_begin(self, epoch, logs=None):
        is_new = self._is_training and epoch != self._epoch
        super().on_epoch_begin(epoch, logs)
        if not is_new:
            return
        self._last_batch = -1
        state = self._state
        if self.learning_rate is not None and epoch >= self.start and not state["has_set_rate"]:
            state["has_set_rate"] = 1.0
            for optimizer in rated_optimizers(self.model):
                optimizer.learning_rate = self.learning_rate

    def _swap_in(self, epoch):
        if epoch < self.start:
            return
        if self.frequency == "epoch":
            self._add()
        state, statistics = self._state, self._statistics
        if state.count:
            state.swapped.swap_in(state.variables, state.mean)
            state.swapped.swap_in(statistics.variables, None)
            statistics.assign(self._fit)

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        self._statistics = None
        if self._epoch is not None and not self.count:
            when = f"in epoch {self.start}"
            if self.frequency != "epoch":
                when = f"after {self.frequency} batches, counted from the beginning of {when[3:]}"
            warnings.warn(
                f"WeightAveraging has averaged nothing: training ended with epoch {self._epoch}, "
                f"and the weights are first averaged {when} (the first epoch is 0). Train for more "
                "epochs, or give it a smaller `start`.",
                stacklevel=2,
            )

    def _after_steps(self, batch, logs=None):
        if not self._is_training or self._epoch < self.start:
            return
        # The last execution of an epoch may name more steps than there were batches.
        batch = min(batch, (self.params.get("steps") or math.inf) - 1)
        before = int(self._state["batches"])
        after = before + batch - self._last_batch
        self._state["batches"], self._last_batch = after, batch
        if after // self.frequency > before // self.frequency:
            self._add()

    def _add(self):
        model, state = self.model, self._state  # on JAX this puts the state into the variables
        variables = state.variables or model.trainable_variables
        if backend.updates.are_finite([v.value for v in variables]):
            state.add(variables)
        elif not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"WeightAveraging leaves weights that are not finite out of the average, in epoch "
                f"{self._epoch} (the first epoch is 0). Further ones are not warned about.",
                stacklevel=2,
            )


def _are_same(variables, others):
    return {id(v) for v in variables} == {id(v) for v in others}


def _checked_start(start):
    if isinstance(start, bool) or not isinstance(start, Integral) or start < 0:
        raise ValueError(
            "`start` of WeightAveraging is an integer of 0 or more, the epoch (counted from 0) at "
            f"whose end the weights are averaged first. It was given {start!r}. For example: "
            "WeightAveraging(start=75) of 100 epochs."
        )
    return int(start)


def _checked_rate(rate):
    if rate is None:
        return None
    is_number = isinstance(rate, Real) and not isinstance(rate, bool)
    if not is_number or not 0 < float(rate) < math.inf:
        raise ValueError(
            "`learning_rate` of WeightAveraging is a positive float, or None: the optimizer keeps "
            f"its own. It was given {rate!r}. For example: WeightAveraging(start=75, "
            "learning_rate=0.01)."
        )
    return float(rate)


def _check_constant_rates(model):
    for optimizer in rated_optimizers(model):
        name = type(chain(optimizer)[-1]).__name__
        if learning_rate_schedule(optimizer) is not None:
            raise ValueError(
                f"WeightAveraging(learning_rate=...) sets the learning rate, and that of {name} is "
                f"{type(learning_rate_schedule(optimizer)).__name__}, a schedule, which would not "
                "let it. Compile with a number, for example keras.optimizers.SGD(0.1); or leave "
                "out `learning_rate`, and let the schedule end with a constant rate."
            )
        method = gradient_estimator(optimizer)
        if method is not None and method.controls_step_size:
            raise ValueError(
                "WeightAveraging(learning_rate=...) sets the learning rate, and "
                f"{type(method).__name__} chooses its step sizes itself. Leave out "
                "`learning_rate`, or give the optimizer `adaptive=False`."
            )


__all__ = ["WeightAveraging"]
