"""`Rescue`: back to the last good state when the loss is not finite or explodes."""

import math
import warnings
from pathlib import Path

import keras

from keras_cool.callbacks.shared.files import checked_path
from keras_cool.callbacks.shared.frequency import checked_frequency
from keras_cool.callbacks.shared.good_states import GoodStates, KeptState
from keras_cool.callbacks.shared.learning_rates import (
    checked_rates,
    rated_optimizers,
    rates_of,
    scale_schedules,
    scale_velocities,
    schedule_factor,
    updates_of,
)
from keras_cool.callbacks.shared.rescue_report import (
    NO_STATE,
    check_rescue,
    in_words,
    out_of_patience,
    place,
)
from keras_cool.callbacks.shared.running_loss import RunningLoss, is_above
from keras_cool.callbacks.shared.saved_state import SavedState
from keras_cool.callbacks.shared.training_state import optimizer_is_finite, weights_are_finite
from keras_cool.keras_private import learning_rate_schedule
from keras_cool.optimizer_roles import accumulator, gradient_estimator

STEPS_WITHOUT_UPDATE = 100  # so many skipped steps one after another are no bad batch any more

MEMORY = 0.98  # how a rise of the loss from one look to the next is forgotten, look by look
AT_ONCE = 10  # trouble within so many looks after a rescue comes from a state that is not good
PEEKS = 8  # so often between two looks a loss that is not finite is left out of the mean


class Rescue(keras.callbacks.Callback):
    """Goes back to the last good state when training has run off, with a lower learning rate.

    Every `frequency` steps, and at the end of each epoch before its validation, it looks at the
    mean loss of the steps since the last time. There is trouble if a weight is not finite; if that
    loss is not finite; or if it has exploded: it is above `divergence_ratio` times the best so far,
    *and* more than half of what was gained since the first step is lost, *and* it is further above
    the best one than twice the largest rise of late, which is noise. If there is none, the state is
    kept; it is good once the next loss, the first that its weights give, is in order too.

    If there is, weights, optimizer, layer state, metrics and the model's random seeds go back to
    the last good state, the learning rate (or schedule) that led there is multiplied by `factor`,
    that of each optimizer of the model (those of a GAN, of a `MultiOptimizer`), and training
    continues with the next batches. It does not repeat the old ones: a loss often
    explodes where one state meets certain batches, and does not if others follow. The generators
    that the order of data is drawn from (NumPy's, PyTorch's) continue too. A rate that was raised
    since does not stay above that of the state. The momentum of SGD and RMSprop, a sum of steps at
    the rate before, is lowered with the rate.

    A state from the beginning of an explosion may pass for good, so several are kept, the older the
    sparser. It goes back further if the next loss, that of the state itself, has exploded too, or
    if trouble comes back within 10 looks. If there is no older one, that loss is taken for noise.

    After `patience` rescues the next trouble ends the training, in the last good state, with a
    report as a warning; it is in `report()` at any time.

    An optimizer that skips steps whose gradient is not finite (those of keras_cool, a
    `LossScaleOptimizer`, a model with `microbatch_size`) has dealt with a bad batch already: a loss
    that is not finite is then trouble only if there was no update in an epoch or in 100 steps, and
    else is left out.
    A step size that the optimizer controls itself is lowered once and controlled from there. A
    `LearningRateScheduler` that does not start from the present rate undoes the lowering.

    As long as there is no trouble it changes nothing: the weights are bit for bit those without it.
    Put it first, so that the callbacks after it see the good state. Its counts and losses are saved
    with the weights, so that `keras.callbacks.BackupAndRestore` resumes with them.

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
        divergence_ratio: Float above 1, or `None`: only what is not finite is trouble. Choose it
            larger where `frequency` is small and single batches may lie far off, and `None` for
            losses around zero. Defaults to 4.
        frequency: `"epoch"`, or an integer: the number of steps from one look to the next, and to
            the next state that is kept. Defaults to `"epoch"`.
        keep: `"device"`: each good state is a copy beside the training state, as large as that,
            and until the next step there is one more; or the path of a file ending with `.npz`,
            with older states in files beside it, which are replaced atomically and removed when
            training has ended. Defaults to `"device"`.
        states: Integer, how many good states are kept at most. With 1 the memory is the least, and
            there is no older one to go back to. Defaults to 3: up to 1, 4 and 20 looks old.

        **renamed: `explosion`, the former name of `divergence_ratio`, for one release more.

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

    acts_on_training_weights = True  # before other weights are swapped in

    rescues: list
    gave_up: bool
    _candidate: KeptState | None
    _last_words: list
    _idle: int
    _has_begun: bool
    _has_seen_first: bool
    _epoch_is_open: bool

    def __init__(
        self,
        patience=3,
        factor=0.5,
        divergence_ratio=4.0,
        frequency="epoch",
        keep="device",
        states=3,
        **renamed,
    ):
        super().__init__()
        divergence_ratio = _by_its_old_name(renamed, divergence_ratio)
        check_rescue(patience, factor, divergence_ratio, states)
        self.patience, self.factor = int(patience), float(factor)
        self.divergence_ratio = divergence_ratio
        self.frequency = checked_frequency(frequency, self)
        path: Path | None = None
        if keep != "device":
            path = checked_path(keep, "Rescue(keep=...)", (".npz",))
        self._good = GoodStates(int(states), path)
        self._start_anew()

    def set_model(self, model):
        """Takes up the model; Keras calls it before training."""
        super().set_model(model)
        self._start_anew()
        self._saved["schedule_factor"] = schedule_factor(model)
        self._saved.attach(model, "rescue")

    def on_train_begin(self, logs=None):
        checked_rates(rated_optimizers(self.model), self)
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
                self._good.add(self._good.keep(model, epoch, self._saved["best"]))
        self._epoch_is_open, self._mean_is_bad, self._peeked = True, False, 0
        self._updates = self._updates_before_epoch = updates_of(model)
        self._loss.start()

    def on_train_batch_begin(self, batch, logs=None):
        # With `steps_per_execution` above 1, `batch` is the first of several: so many were taken.
        self._batch = batch
        if batch and not self._has_seen_first:
            self._see_first()
        if batch and self._candidate is not None:
            self._confirm()
        if batch and self._has_just_gone_back:
            self._look_at_good_state()
        if self.frequency != "epoch" and batch - self._steps >= self.frequency:
            self._look(batch)
        elif batch - self._peeked >= self._steps_between_peeks():
            self._peek(batch)

    def on_test_begin(self, logs=None):
        self._end_of_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self._end_of_epoch()
        if self._mean_is_bad and logs and "loss" in logs:
            logs["loss"] = math.nan  # as without this callback

    def on_train_end(self, logs=None):
        self._saved.detach(self.model, "rescue")
        self._candidate = None
        self._good.clear()

    def on_train_error(self):
        """Drops the good states when an exception ends `fit`, on a model with the mixin."""
        self.on_train_end()

    def report(self):
        """Returns what happened as text, a line for each rescue."""
        lines = [in_words(r) for r in self.rescues]
        return "\n".join(lines + self._last_words) or "There was no trouble."

    def _start_anew(self):
        self._saved = SavedState(
            count=0.0,
            first=math.nan,
            best=math.nan,
            last=math.nan,
            rise=0.0,
            looks_since_rescue=math.inf,
            schedule_factor=1.0,
        )
        self.rescues, self.gave_up = [], False
        self._last_words = []
        self._candidate = None
        self._good.clear()
        self._idle = 0
        self._mean_is_bad = self._has_just_gone_back = False
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
        self._note_first(self._loss.since_start())
        if not self._good.exist() and weights_are_finite(model):
            self._good.add(self._good.keep(model, self._epoch, self._saved["best"]))

    def _note_first(self, loss):
        if math.isnan(self._saved["first"]) and loss is not None and math.isfinite(loss):
            self._saved["first"] = loss

    def _confirm(self):
        """Makes the last state a good one if the loss of its weights is in order.

        Weights that the last update has blown up are finite, and no loss has seen them before.
        """
        self.model  # noqa: B018  on JAX this puts the state into the variables
        loss = self._loss.since_start()
        if loss is not None and math.isfinite(loss) and not self._has_exploded(loss):
            self._good.add(self._candidate)
        self._candidate = None

    def _look_at_good_state(self):
        """Goes back further if the loss of the state that was put back has exploded too."""
        self.model  # noqa: B018  on JAX this puts the state into the variables
        self._has_just_gone_back = False
        loss = self._loss.since_start()
        if loss is None or not math.isfinite(loss) or not self._has_exploded(loss):
            return
        if not self._good.has_older():
            self._saved["rise"] = loss - self._best()
            return
        rates = rates_of(self.model)
        self._lower(1.0, rates, self._go_back(further=True).rates)
        self.rescues[-1]["learning_rate"] = rates_of(self.model)[0]
        self._has_just_gone_back = True
        self._loss.start()

    def _steps_between_peeks(self):
        if not _skips_what_is_not_finite(self._model):
            return math.inf  # such a loss is trouble
        steps = self.params.get("steps") if self.frequency == "epoch" else self.frequency
        return max(1, (steps or PEEKS * STEPS_WITHOUT_UPDATE) // PEEKS)

    def _peek(self, batch):
        self._peeked = batch
        self.model  # noqa: B018  on JAX this puts the state into the variables
        self._note_first(self._loss.since_start())
        self._mean_is_bad |= self._loss.leave_out_bad_losses()

    def _look(self, batch):
        """Looks at the steps since the last time; `batch` of the epoch are over, or with `None`
        all."""
        if self.gave_up:
            return
        model = self.model
        if not self._has_seen_first:
            self._see_first()
        loss = self._loss.since_start()
        if loss is None and not self._loss.has_met_a_bad_loss:
            return
        loss = math.nan if loss is None else loss
        steps = self._batch + 1 if batch is None else batch
        updates = updates_of(model)
        self._idle = 0 if updates != self._updates else self._idle + steps - self._steps
        self._updates, self._steps = updates, steps
        self._saved["looks_since_rescue"] += 1
        trouble = self._trouble(loss, is_end_of_epoch=batch is None)
        if trouble:
            self._rescue(trouble, loss, batch)
        elif math.isfinite(loss) and optimizer_is_finite(model):
            self._take_down(loss)
            if self._candidate is not None:
                self._good.add(self._candidate)
            self._candidate = self._good.keep(model, self._epoch, self._saved["best"])
        self._mean_is_bad |= self._loss.leave_out_bad_losses()
        self._loss.start()

    def _take_down(self, loss):
        """Notes a loss that is in order."""
        saved = self._saved
        self._note_first(loss)
        saved["best"] = min(loss, self._best())
        rise = 0.0 if math.isnan(saved["last"]) else loss - saved["last"]
        saved["rise"], saved["last"] = max(MEMORY * saved["rise"], rise), loss

    def _trouble(self, loss, is_end_of_epoch):
        """What is wrong, in words, or `None`."""
        if not weights_are_finite(self.model):
            return f"the weights are not finite, the loss is {loss:.4g}"
        is_bad = self._loss.has_met_a_bad_loss or not math.isfinite(loss)
        if is_bad:
            no_update = self._idle >= STEPS_WITHOUT_UPDATE or (
                is_end_of_epoch and self._updates == self._updates_before_epoch
            )
            if not _skips_what_is_not_finite(self.model) or no_update:
                return f"the loss is {math.nan if math.isfinite(loss) else loss}"
        if math.isfinite(loss) and self._has_exploded(loss):
            return f"the loss has exploded to {loss:.4g}, the best was {self._best():.4g}"
        return None

    def _has_exploded(self, loss):
        best, first = self._best(), self._saved["first"]
        if self.divergence_ratio is None or math.isnan(first):
            return False
        lost = loss - best
        return lost > max((first - best) / 2, 2 * self._saved["rise"]) and is_above(
            loss, self.divergence_ratio, best
        )

    def _best(self):
        """The best loss so far; before there is one, that of the first step."""
        best = self._saved["best"]
        return best if math.isfinite(best) else self._saved["first"]

    def _go_back(self, further=False):
        """Puts a good state back, and gives it, or `None` if there is none."""
        self._candidate = None
        self.model.reset_metrics()  # those too that came to be later
        good = self._good.put_back(further)
        if good is not None:
            self._saved["best"] = good.best  # an older state is no explosion of a later one
        if good is not None and good.epoch != self._epoch:
            self.model.reset_metrics()
            self._mean_is_bad = False
        self._updates = updates_of(self.model)
        return good

    def _rescue(self, trouble, loss, batch):
        rates = rates_of(self.model)
        good = self._go_back(further=self._saved["looks_since_rescue"] <= AT_ONCE)
        self._idle = 0
        self._saved["looks_since_rescue"], self._saved["last"] = 0.0, math.nan
        if good is None or self._saved["count"] >= self.patience:
            self._give_up(trouble, batch)
            return
        self._saved["count"] += 1
        self._saved["schedule_factor"] *= self.factor
        self._lower(self.factor, rates, good.rates)
        self._has_just_gone_back = True
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

    def _lower(self, factor, rates, good_rates):
        """Multiplies by the factor the rates as they were when trouble came, not those that have
        been put back: two rescues to one state lower it twice."""
        scale_schedules(self.model, self._saved["schedule_factor"])
        for optimizer, rate, good in zip(
            rated_optimizers(self.model), rates, good_rates, strict=True
        ):
            if learning_rate_schedule(optimizer) is None:
                rate = rate if math.isfinite(rate) and rate > 0 else good
                rate = factor * rate
                if not _controls_step_size(optimizer):
                    rate = min(rate, good)
                if rate > 0:  # or a step size that is still to be chosen
                    optimizer.learning_rate = rate
        for optimizer, rate, good in zip(
            rated_optimizers(self.model), rates_of(self.model), good_rates, strict=True
        ):
            if 0 < rate < good:
                scale_velocities(optimizer, rate / good)

    def _give_up(self, trouble, batch):
        self.gave_up = True
        self.model.stop_training = True
        where = f"Rescue gave up in {place(self._epoch, batch)}: {trouble}. "
        self._last_words = [
            where + (out_of_patience(int(self._saved["count"])) if self._good.exist() else NO_STATE)
        ]
        warnings.warn(self.report(), stacklevel=2)


def _controls_step_size(optimizer):
    method = gradient_estimator(optimizer)
    return method is not None and method.controls_step_size


def _skips_what_is_not_finite(model):
    optimizer = model.optimizer
    return (
        isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        or gradient_estimator(optimizer) is not None
        or accumulator(optimizer) is not None
        or getattr(model, "microbatch_size", None) is not None
    )


def _by_its_old_name(renamed, divergence_ratio):
    """The argument `explosion`, as `divergence_ratio` was called before."""
    if "explosion" in renamed:
        warnings.warn(
            "`explosion` of Rescue is now `divergence_ratio`. The old name will be "
            "removed in the next release.",
            FutureWarning,
            stacklevel=3,
        )
        divergence_ratio = renamed.pop("explosion")
    if renamed:
        raise TypeError(
            f"Rescue has no argument {next(iter(renamed))!r}. It has patience, factor, "
            "divergence_ratio, frequency, keep and states."
        )
    return divergence_ratio


__all__ = ["Rescue"]
