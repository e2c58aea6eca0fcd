"""`Schedule`: changes a number of the model, its loss or its optimizer while training."""

import math
import warnings
from numbers import Real

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_cool.callbacks.shared.breakpoints import checked_table, value_at
from keras_cool.callbacks.shared.schedule_target import as_target
from keras_cool.callbacks.shared.step_callback import StepCallback, build_optimizer
from keras_cool.keras_private import holds_several, learning_rate_variable
from keras_cool.optimizer_roles import chain

BY = ("epoch", "step")


class Schedule(StepCallback):
    r"""Changes a number while training: a variable, or an attribute such as a dropout rate.

    The number takes effect in the compiled step, on JAX too, where a variable that a loss merely
    closes over is a constant of the program: it becomes a part of the state of the step. Nothing is
    compiled again when it changes, and nothing is added to what a step costs. The present value is
    in the logs of each epoch. (`torch.compile` alone compiles again for each number of an
    attribute; give it a variable.)

    An attribute is a variable inside the step, and a Python number outside of it, so that the model
    is saved with the number it has; by step, with that of the end of the last epoch (put Schedule
    before `ModelCheckpoint`). It may be any that the step computes with: `momentum`,
    `weight_decay`, `rho` or `learning_rate` of an optimizer, `rate` of a layer, `l2` of a
    regulariser, a number of a loss of your own.

    A model without `keras_cool.MultiGradientMixin` is given it, and otherwise trains as it did.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> penalty = keras.Variable(0.1, trainable=False)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(
    ...     "sgd", loss=lambda y, p: (p - y) ** 2 + penalty * keras.ops.abs(p)
    ... )
    >>> schedule = kc.callbacks.Schedule(penalty, {0: 0.1, 2: 0.01}, name="penalty")
    >>> x, y = keras.ops.ones((8, 2)), keras.ops.ones((8, 1))
    >>> history = model.fit(x, y, epochs=3, callbacks=[schedule], verbose=0)
    >>> [round(value, 3) for value in history.history["penalty"]]
    [0.1, 0.1, 0.01]

    Args:
        target: What changes: a scalar `keras.Variable` that is not trained; or a pair of an object
            and the name of its attribute, as `(model.optimizer, "momentum")` or
            `(layer, "rate")`, whose value is a number.
        schedule: A function of the epoch (`by="epoch"`: any Python function) or of the number of
            updates so far (`by="step"`: a scalar float tensor, for a function written with
            `keras.ops`, which is compiled into the step), both from 0 on; a
            `keras.optimizers.schedules.LearningRateSchedule`; or a dictionary of breakpoints,
            `{0: 0.1, 100: 0.01}`: from epoch or update 100 on it is 0.01, and before the first
            breakpoint the value that it had.
        by: `"epoch"` or `"step"`. Steps are counted by the `iterations` of an optimizer, which a
            checkpoint holds: the one whose number it is, in a step that uses several (of a GAN),
            and otherwise the model's own. Defaults to `"epoch"`.
        name: String or `None`. The name in the logs. Defaults to the name of the attribute or of
            the variable.

    Raises:
        TypeError: If `target` or `schedule` is none of these, the schedule gives no number, or a
            fraction for an integer variable, or the attribute is used where a compiled step cannot
            see it change.
        ValueError: If the variable is trained or no scalar, the object has no such number, the
            value is not finite, a breakpoint is negative, the optimizer has a learning-rate
            schedule of its own, another `Schedule` changes the number too, the logs have an entry
            of that name already, the step never reads the target (which for an attribute is not
            noticed on PyTorch), a dropout rate or a momentum is not between 0 and 1, the number is
            that of a second optimizer which is not built yet, or there is no optimizer to count
            steps by. What is no error is a warning: another callback that changes the number, and
            an optimizer that counts the steps and takes none.
    """

    def __init__(self, target, schedule, by="epoch", name=None):
        super().__init__()
        if by not in BY:
            raise ValueError(f'`by` of Schedule is "epoch" or "step". It was given {by!r}.')
        if not isinstance(schedule, dict) and not callable(schedule):
            raise TypeError(
                "`schedule` of Schedule is a function of the epoch or of the step, a "
                "LearningRateSchedule, or a dictionary of breakpoints such as {0: 0.1, 100: 0.01}. "
                f"It was given {schedule!r} of type {type(schedule).__name__}."
            )
        self._target = as_target(target)
        self._table = checked_table(schedule) if isinstance(schedule, dict) else None
        for _, value in self._table or ():
            self._target.check_exact(value)
        self._schedule = schedule
        self._by = by
        self._name = name or self._target.name
        self._first = 0.0
        self._checked = False
        self._own_variables: list = []
        self._counted = 0  # updates at the last end of an epoch
        self._stands_still = self._is_overruled = False
        self._given = None  # the number of the epoch

    @property
    def value(self):
        """The present value, a float."""
        return self._target.value

    @property
    def step_variables(self):
        return self._own_variables

    @property
    def numbers_in_step(self):
        return self._target.numbers_in_step

    def set_model(self, model):
        """Takes up the model; Keras calls it before training."""
        self._first = self._target.value
        optimizer = model.optimizer
        known = [
            *model.variables,
            *model.metrics_variables,
            *(optimizer.variables if optimizer else ()),
        ]
        variable = self._target.variable
        self._own_variables = [] if any(v is variable for v in known) else [variable]
        self._checked = False
        self._check_alone(model)
        self._target.value = self._first  # of the type that every later one has
        super().set_model(model)

    def _check_model(self, model):
        """Refuses a model whose optimizers do not count the steps, or are not built."""
        build_optimizer(model)  # in the first step it would have no slots for a first number of 0
        self._check_built(model)
        self._given = None
        self._counter = self._counting(model)
        self._counted = self._updates()

    def on_epoch_begin(self, epoch, logs=None):
        if self._by == "epoch":
            self._check_kept()
            self._target.value = self._number_at(epoch)
            self._given = self._target.value

    def begin_step(self):
        if self._by == "step":
            value = self._at(self._counter.iterations.value)
            if self._table is None:
                self._target.check_exact(value)
            self._target.variable.assign(value)

    def during_step(self):
        return self._target.in_step()

    def on_train_batch_begin(self, batch, logs=None):
        if batch and not self._checked:
            self._check_read()

    def on_epoch_end(self, epoch, logs=None):
        self._check_read()
        self._check_kept()
        self._target.keep_value()
        if not math.isfinite(self._target.value):
            self._refuse(self._target.value, f"in epoch {epoch}")
        if logs is not None:
            self._check_name(self._model, logs)
            logs[self._name] = self._target.value
        self._check_counting(epoch)

    def _at(self, count):
        if self._table is not None:
            return value_at(self._table, count, self._first)
        if self._by == "step" and not isinstance(self._schedule, LearningRateSchedule):
            count = ops.cast(count, keras.config.floatx())  # so that 0.1 * step is a number
        return self._schedule(count)

    def _number_at(self, epoch):
        try:
            value = self._at(epoch)
        except Exception as error:
            error.add_note(f"Raised by the schedule of Schedule({self._name}) for epoch {epoch}.")
            raise
        if ops.is_tensor(value):
            value = ops.convert_to_numpy(value)
        scalar = isinstance(value, (np.ndarray, np.generic)) and value.shape == ()
        if isinstance(value, bool) or not (isinstance(value, Real) or scalar):
            raise TypeError(
                f"The schedule of Schedule({self._name}) has to give a number. It gave {value!r} "
                f"of type {type(value).__name__} for epoch {epoch}."
            )
        value = float(value)
        if not math.isfinite(value):
            self._refuse(value, f"for epoch {epoch}")
        return value

    def _refuse(self, value, when):
        raise ValueError(
            f"The schedule of Schedule({self._name}) gave {value} {when}. It has to be finite."
        )

    def _counting(self, model):
        """The optimizer whose updates are the steps, or `None` where epochs are counted."""
        if self._by == "epoch":
            return None
        owner, own = self._target.optimizer, model.optimizer
        if owner is not None and not _is_in(owner, own):
            return owner
        if own is None:
            raise ValueError(
                f"Schedule({self._name}) counts the updates of the model's optimizer, and the "
                'model was compiled without one. Use by="epoch", or give `compile` one of the '
                "optimizers that the training step uses."
            )
        return own

    def _updates(self):
        return 0 if self._counter is None else int(self._counter.iterations.numpy())

    def _check_counting(self, epoch):
        """Warns, once, where an epoch went by without an update by the optimizer that counts."""
        before, self._counted = self._counted, self._updates()
        if self._counter is None or self._stands_still or self._counted != before:
            return
        self._stands_still = True
        kind = type(self._counter).__name__
        warnings.warn(
            f'Schedule({self._name}, by="step") counts the updates of {kind}, which made none in '
            f"epoch {epoch}, so that the number stayed as it was. Give `compile` one of the "
            'optimizers that the training step uses, or use by="epoch".',
            stacklevel=2,
        )

    def _check_alone(self, model):
        """Refuses a number that another schedule changes, and a name that is taken."""
        self._check_name(model, ["loss", *(metric.name for metric in model.metrics)])
        hooks = getattr(model, "step_hooks", None)  # of a model with the mixin
        for other in hooks.callbacks if hooks else []:
            if other is self or not isinstance(other, Schedule):
                continue
            if self._target.is_same(other._target):
                raise ValueError(
                    f"Schedule({self._name}) changes a number that another Schedule changes "
                    "already, so that one of the two would have no effect. Give one of them what "
                    "both are to do, for example {0: 0.1, 5: 0.5}."
                )
            if self._name == other._name:
                self._refuse_name()

    def _check_name(self, model, names):
        # Another callback that has the model's learning rate in the logs means the same.
        rate = learning_rate_variable(chain(model.optimizer)[-1])
        is_the_rate = self._name == "learning_rate" and self._target.variable is rate
        if self._name in names and not is_the_rate:
            self._refuse_name()

    def _refuse_name(self):
        raise ValueError(
            f"Schedule({self._name}) would overwrite {self._name!r} in the logs with its own "
            "number. Give it another name: Schedule(target, schedule, "
            f"name='scheduled_{self._name}')."
        )

    def _check_kept(self):
        """Warns, once, where something else has changed the number since it was given."""
        if self._given is None or self._is_overruled:
            return
        if math.isclose(self._given, self._target.value, rel_tol=1e-6):  # it may be a float32
            return
        self._is_overruled = True
        warnings.warn(
            f"Schedule({self._name}) gave {self._given:.6g}, and found {self._target.value:.6g}: "
            "another callback changes the same number (LearningRateScheduler, ReduceLROnPlateau, "
            "Rescue), and the last one to do so has its way. Leave one of them out.",
            stacklevel=2,
        )

    def _check_built(self, model):
        owner = None if self._target.name == "learning_rate" else self._target.optimizer
        if owner is not None and not owner.built and not _is_in(owner, model.optimizer):
            raise ValueError(
                f"Schedule({self._name}) changes a number of {type(owner).__name__}, a second "
                "optimizer that does not know its variables yet. So that its state does not depend "
                "on the first number, build it before `fit`: optimizer.build(variables)."
            )

    def _check_read(self):
        self._checked = True
        if not self._target.is_read:
            raise ValueError(
                f"Schedule({self._name}) changes a number that the training step never reads, so "
                "that it has no effect. Use it in the loss, in a layer or in the optimizer, in "
                "the step itself: what was computed from it before is a constant."
            )


def _is_in(owner, optimizer):
    """Whether `owner` is an optimizer, or one of those inside it."""
    optimizers = chain(optimizer)
    several = optimizers[-1].optimizers if holds_several(optimizers[-1]) else []
    return any(o is owner for o in optimizers) or any(_is_in(owner, o) for o in several)
