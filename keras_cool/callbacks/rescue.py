"""`Rescue`: back to the last good state when the loss is not finite or explodes."""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import keras

from keras_cool.callbacks.files import checked_path
from keras_cool.callbacks.frequency import checked_frequency
from keras_cool.callbacks.learning_rates import (
    checked_rates,
    optimizers_of,
    rates_of,
    scale_schedules,
    schedule_factor,
    updates_of,
)
from keras_cool.callbacks.rescue_report import (
    NO_STATE,
    check_rescue,
    in_words,
    out_of_patience,
    place,
)
from keras_cool.callbacks.running_loss import RunningLoss, is_above
from keras_cool.callbacks.saved_state import SavedState
from keras_cool.callbacks.training_state import (
    TrainingState,
    optimizer_is_finite,
    weights_are_finite,
)
from keras_cool.keras_private import learning_rate_schedule

STEPS_WITHOUT_UPDATE = 100  # so many skipped steps one after another are no bad batch any more


class KeptState(NamedTuple):
    """A state of the training, the epoch that it is from, and the learning rates then."""

    state: TrainingState
    epoch: int
    rates: list


class Rescue(keras.callbacks.Callback):
    """Goes back to the last good state when training has run off, with a lower learning rate.

    Every `frequency` steps, and at the end of each epoch before its validation, it looks at the
    mean loss of the steps since the last time. There is trouble if a weight is not finite; if that
    loss is not finite; or if it has exploded: it is above the loss of the very first step *and*
    above `explosion` times the best one so far. If there is none, the state is kept; it is good
    once the next loss, the first that its weights give, is in order too.

    If there is, weights, optimizer, layer state, metrics and the model's random seeds go back to
    the last good state, the learning rate (or schedule) that led there is multiplied by `factor`,
    and training goes on with the next batches. It does not go back to the old ones: a loss often
    explodes where one state meets certain batches, and does not if others follow. The generators
    that the order of data is drawn from (NumPy's, PyTorch's) go on too.

    After `patience` rescues the next trouble ends the training, in the last good state, with a
    report as a warning; it is in `report()` at any time.

    An optimizer that skips steps whose gradient is not finite (those of keras_cool, a
    `LossScaleOptimizer`, a model with `microbatch_size`) has dealt with a bad batch already: a loss
    that is not finite is then trouble only if there was no update in an epoch or in 100 steps.
    A step size that the optimizer controls itself is lowered once and controlled from there. A
    `LearningRateScheduler` that does not start from the present rate undoes the lowering.

    As long as there is no trouble it changes nothing: the weights are those without it, to the bit.
    Put it first, so that the callbacks after it see the good state. Its counts and losses are saved
    with the weights, so that `keras.callbacks.BackupAndRestore` goes on with them.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(5.0), loss="mse")  # far too large
    >>> x = keras.random.normal((64, 2), seed=1)
    >>> rescue = kc.callbacks.Rescue(patience=10, factor=0.2, frequency=10)
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # each rescue is a warning
    ...     history = model.fit(x, x[:, :1], epochs=200, callbacks=[rescue], verbose=0)
    >>> len(rescue.rescues) > 0 and history.history["loss"][-1] < 1e-3
    True

    Args:
        patience: Integer, how many rescues there may be in a training. Defaults to 3.
        factor: Float between 0 and 1, what the learning rate is multiplied by. Defaults to 0.5.
        explosion: Float above 1, or `None`: only what is not finite is trouble. Choose it larger
            where `frequency` is small and single batches may lie far off, and `None` for losses
            around zero. Defaults to 10.
        frequency: `"epoch"`, or an integer: the number of steps from one look to the next, and to
            the next state that is kept. Defaults to `"epoch"`.
        keep: `"device"`: the last good state is a copy beside the training state, as large as that,
            and until the next step there is one more; or the path of a file ending with `.npz`,
            which is replaced atomically and removed when training has ended. Defaults to
            `"device"`.

    Attributes:
        rescues: List of dictionaries, one for each rescue of the last `fit`: `epoch` (from 0),
            `step` (how many of its steps were over; `None`: all), `trouble` (in words), `loss`, and
            `learning_rate`, from there on.
        gave_up: Boolean, whether the last `fit` ended in trouble.

    Raises:
        ValueError: If an argument is out of its range; when training begins, if the learning rate
            is a function, or there is no loss to look at.
        OSError: If the file cannot be written.

    Reference:
        Chowdhery et al., 2022, "PaLM: Scaling Language Modeling with Pathways", section 5.1: going
        back to an earlier state and on with other batches, against spikes of the loss.
    """

    rescues: list
    gave_up: bool
    _good: KeptState | None
    _candidate: KeptState | None
    _last_words: list
    _idle: int
    _has_begun: bool
    _has_seen_first: bool
    _epoch_is_open: bool

    def __init__(self, patience=3, factor=0.5, explosion=10.0, frequency="epoch", keep="device"):
        super().__init__()
        check_rescue(patience, factor, explosion)
        self.patience, self.factor, self.explosion = int(patience), float(factor), explosion
        self.frequency = checked_frequency(frequency, self)
        self._path: Path | None = None
        self._new_path: Path | None = None
        if keep != "device":
            self._path = checked_path(keep, "Rescue(keep=...)", (".npz",))
            self._new_path = self._path.with_name(f"{self._path.stem}-unconfirmed.npz")
        self._start_anew()

    def set_model(self, model):
        """Takes up the model; Keras calls it before training."""
        super().set_model(model)
        self._start_anew()
        self._saved["schedule_factor"] = schedule_factor(model)
        self._saved.attach(model, "rescue")

    def on_train_begin(self, logs=None):
        checked_rates(self.model, self)
        self._loss = RunningLoss(self.model, self)

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model
        self._epoch, self._batch, self._steps = epoch, 0, 0
        if not self._has_begun:  # not before: BackupAndRestore may load in any `on_train_begin`
            self._has_begun = True
            scale_schedules(model, self._saved["schedule_factor"])
            if model.built:
                if not model.optimizer.built:  # TensorFlow would build it in the first step
                    model.optimizer.build(model.trainable_variables)
                self._good = self._kept(self._path)
        self._epoch_is_open = True
        self._updates = self._updates_before_epoch = updates_of(model)
        self._loss.start()

    def on_train_batch_begin(self, batch, logs=None):
        # With `steps_per_execution` above 1, `batch` is the first of several: so many were taken.
        self._batch = batch
        if batch and not self._has_seen_first:
            self._see_first()
        if batch and self._candidate is not None:
            self._confirm()
        if self.frequency != "epoch" and batch - self._steps >= self.frequency:
            self._look(batch)

    def on_test_begin(self, logs=None):
        self._end_of_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self._end_of_epoch()

    def on_train_end(self, logs=None):
        self._saved.detach(self.model, "rescue")
        self._good = self._candidate = None
        for path in (self._path, self._new_path):
            if path is not None:
                path.unlink(missing_ok=True)

    def report(self):
        """Gives what happened in words: a string with a line for each rescue."""
        lines = [in_words(r) for r in self.rescues]
        return "\n".join(lines + self._last_words) or "There was no trouble."

    def _start_anew(self):
        self._saved = SavedState(count=0.0, first=math.nan, best=math.nan, schedule_factor=1.0)
        self.rescues, self.gave_up = [], False
        self._last_words = []
        self._good = self._candidate = None
        self._idle = 0
        self._has_begun = self._has_seen_first = self._epoch_is_open = False

    def _end_of_epoch(self):
        """Once an epoch: before its validation if there is one, or else at its end."""
        if not self._epoch_is_open:
            return
        self._epoch_is_open = False
        if self.gave_up:
            self._go_back()  # Keras has taken one more step, after which it stops
        else:
            self._look(None)

    def _see_first(self):
        """Notes the loss of the first step, that of the weights at the start."""
        model = self.model  # on JAX this puts the state into the variables
        self._has_seen_first = True
        if math.isnan(self._saved["first"]):
            self._saved["first"] = self._loss.since_start() or math.nan
        if self._good is None and weights_are_finite(model):
            self._good = self._kept(self._path)

    def _confirm(self):
        """Makes the last state the good one if the loss of its weights is in order.

        Weights that the last update has blown up are finite, and no loss has seen them before.
        """
        self.model  # noqa: B018  on JAX this puts the state into the variables
        loss = self._loss.since_start()
        if loss is not None and math.isfinite(loss) and not self._has_exploded(loss):
            self._accept(self._candidate)
        self._candidate = None

    def _accept(self, candidate):
        candidate.state.move(self._path)
        self._good = candidate

    def _look(self, batch):
        """Looks at the steps since the last time; `batch` of the epoch are over, or with `None`
        all."""
        if self.gave_up:
            return
        model = self.model
        if not self._has_seen_first:
            self._see_first()
        loss = self._loss.since_start()
        if loss is None:
            return
        steps = self._batch + 1 if batch is None else batch
        updates = updates_of(model)
        self._idle = 0 if updates != self._updates else self._idle + steps - self._steps
        self._updates, self._steps = updates, steps
        trouble = self._trouble(loss, is_end_of_epoch=batch is None)
        if trouble:
            self._rescue(trouble, loss, batch)
        elif math.isfinite(loss) and optimizer_is_finite(model):
            self._saved["best"] = min(loss, self._best())
            if self._candidate is not None:
                self._accept(self._candidate)
            self._candidate = self._kept(self._new_path)
        self._loss.start()

    def _trouble(self, loss, is_end_of_epoch):
        """What is wrong, in words, or `None`."""
        if not weights_are_finite(self.model):
            return f"the weights are not finite, the loss is {loss:.4g}"
        if not math.isfinite(loss):
            no_update = self._idle >= STEPS_WITHOUT_UPDATE or (
                is_end_of_epoch and self._updates == self._updates_before_epoch
            )
            if _skips_what_is_not_finite(self.model) and not no_update:
                return None
            return f"the loss is {loss}"
        if self._has_exploded(loss):
            return f"the loss has exploded to {loss:.4g}, the best was {self._best():.4g}"
        return None

    def _has_exploded(self, loss):
        if self.explosion is None or not loss > self._saved["first"]:
            return False
        return is_above(loss, self.explosion, self._best())

    def _best(self):
        """The best loss so far; before there is one, that of the first step."""
        best = self._saved["best"]
        return best if math.isfinite(best) else self._saved["first"]

    def _kept(self, path):
        return KeptState(TrainingState(self.model, path), self._epoch, rates_of(self.model))

    def _go_back(self):
        self._candidate = None
        self.model.reset_metrics()  # those too that came to be later
        if self._good is not None:
            self._good.state.put_back()
            if self._good.epoch != self._epoch:
                self.model.reset_metrics()
        self._updates = updates_of(self.model)

    def _rescue(self, trouble, loss, batch):
        rates, good = rates_of(self.model), self._good
        self._go_back()
        self._idle = 0
        if good is None or self._saved["count"] >= self.patience:
            self._give_up(trouble, batch)
            return
        self._saved["count"] += 1
        self._lower(rates, good.rates)
        record = {
            "epoch": self._epoch,
            "step": batch,
            "trouble": trouble,
            "loss": loss,
            "learning_rate": rates_of(self.model)[0],
        }
        self.rescues.append(record)
        count = f"Rescue {int(self._saved['count'])} of {self.patience}"
        warnings.warn(f"{count}: {in_words(record)}", stacklevel=2)

    def _lower(self, rates, good_rates):
        """Multiplies by the factor the rates as they were when trouble came, not those that have
        been put back: two rescues to one state lower it twice."""
        self._saved["schedule_factor"] *= self.factor
        scale_schedules(self.model, self._saved["schedule_factor"])
        for optimizer, rate, good in zip(optimizers_of(self.model), rates, good_rates, strict=True):
            if learning_rate_schedule(optimizer) is None:
                rate = rate if math.isfinite(rate) and rate > 0 else good
                optimizer.learning_rate = self.factor * rate

    def _give_up(self, trouble, batch):
        self.gave_up = True
        self.model.stop_training = True
        where = f"Rescue gave up in {place(self._epoch, batch)}: {trouble}. "
        self._last_words = [
            where + (NO_STATE if self._good is None else out_of_patience(int(self._saved["count"])))
        ]
        warnings.warn(self.report(), stacklevel=2)


def _skips_what_is_not_finite(model):
    optimizer = model.optimizer
    return (
        isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        or hasattr(optimizer, "step_logs")  # the optimizers of keras_cool
        or getattr(model, "microbatch_size", None) is not None
    )


__all__ = ["Rescue"]
