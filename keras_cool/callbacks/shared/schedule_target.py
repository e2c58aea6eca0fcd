"""What a `Schedule` changes: a variable, or an attribute that is one inside the step."""

import contextlib
from numbers import Real

import keras
from keras import ops

from keras_cool import backend
from keras_cool.callbacks.shared.scheduled_number import ScheduledNumber
from keras_cool.keras_private import (
    NotedReads,
    holds_several,
    learning_rate_variable,
    loss_arguments,
)
from keras_cool.optimizer_roles import accumulators, chain, has_learning_rate

_USAGE = (
    "Schedule takes a scalar keras.Variable, or a pair of an object and the name of its attribute: "
    'Schedule((model.optimizer, "momentum"), {0: 0.9, 10: 0.99})'
)


def as_target(target):
    """Returns the target that the first argument of `Schedule` names."""
    if isinstance(target, keras.Variable):
        return VariableTarget(target)
    if isinstance(target, (tuple, list)) and len(target) == 2 and isinstance(target[1], str):
        owner, name = target
        if not isinstance(owner, keras.optimizers.Optimizer):
            return AttributeTarget(owner, name)
        if name == "learning_rate":
            return VariableTarget(_learning_rate(owner), name, optimizer=owner)
        return AttributeTarget(_that_has(owner, name), name, optimizer=owner)
    raise TypeError(f"{_USAGE}. It was given {target!r} of type {type(target).__name__}.")


class VariableTarget:
    """A variable of the user's, of a layer or of an optimizer.

    Args:
        variable: A scalar `keras.Variable`.
        name: String or `None`, what it is called. Defaults to the variable's own name.
        optimizer: The optimizer whose learning rate it is, or `None`.
    """

    def __init__(self, variable, name=None, optimizer=None):
        if tuple(variable.shape) != ():
            raise ValueError(
                f"Schedule changes one number, and {variable.path} has shape "
                f"{tuple(variable.shape)}. Give a scalar, and multiply with it."
            )
        if variable.trainable and optimizer is None:
            raise ValueError(
                f"{variable.path} is trainable, so that the optimizer may change it too. Make it "
                "with keras.Variable(..., trainable=False)."
            )
        self.name = name or variable.name
        self.variable = variable
        self._reads = NotedReads(variable)
        self.optimizer = optimizer
        self.numbers_in_step: list = []  # a step reads the variable

    @property
    def value(self):
        """The present value, a float."""
        return float(self.variable.numpy())

    @value.setter
    def value(self, value):
        self.check_exact(value)
        self.variable.assign(value)

    def check_exact(self, value):
        """Refuses a number that the variable cannot hold, which would be cut off in silence.

        Args:
            value: A number, or what a step computes: a scalar tensor, of which the dtype is known.
        """
        dtype = keras.backend.standardize_dtype(self.variable.dtype)
        if "float" in dtype:
            return
        if ops.is_tensor(value):
            exact = "float" not in keras.backend.standardize_dtype(value.dtype)
        else:
            exact = value == (bool(value) if dtype == "bool" else int(value))
        if not exact:
            raise TypeError(
                f"Schedule was to give {value!r} to {self.variable.path}, which is of the dtype "
                f"{dtype} and would cut it off. Make it with dtype='float32', or give a schedule "
                "of whole numbers; by step, one that ends with keras.ops.cast(..., 'int32')."
            )

    def is_same(self, other):
        """Whether `other`, a target too, changes the same number."""
        return self.variable is other.variable

    def keep_value(self):
        """Nothing to do: the variable has it."""

    def in_step(self):
        """The context in which a step reads the variable."""
        return self._reads

    @property
    def is_read(self):
        """Whether a step has read it; the learning rate is not looked at, an optimizer reads it."""
        return self.optimizer is not None or self._reads.noted


class AttributeTarget:
    """An attribute: a number outside of the step, a variable inside.

    Args:
        owner: Any object, a layer, an optimizer or a loss.
        name: String, the name of an attribute of it.
        optimizer: The optimizer that it is or that is around it, or `None`.
    """

    def __init__(self, owner, name, optimizer=None):
        kind = type(owner).__name__
        if not hasattr(owner, "__dict__"):
            raise TypeError(
                f"{_USAGE}. The object was {owner!r} of type {kind}, which has no attributes that "
                "could be set."
            )
        self._held_in = loss_arguments(owner) if name in loss_arguments(owner) else vars(owner)
        held = {**vars(owner), **loss_arguments(owner)}
        numbers = {key: value for key, value in held.items() if _is_number(value)}
        if name not in numbers:
            given = f"is {getattr(owner, name)!r}" if hasattr(owner, name) else "does not exist"
            names = sorted(key for key in numbers if not key.startswith("_"))
            advice = f"Its numbers are {names}."
            if name == "steps" and accumulators(optimizer):
                given = f"is {accumulators(optimizer)[0].steps}, of Accumulate"
                advice = "Change it with keras_cool.callbacks.AccumulationSchedule({0: 1, 5: 4})."
            raise ValueError(
                f"Schedule changes a number, and the attribute {name!r} of {kind} {given}. {advice}"
            )
        if name == "momentum" and not numbers[name] and not _keeps_momentum(owner):
            raise ValueError(
                f"The momentum of {kind} is 0, for which it keeps no state. Make it with the first "
                f"value: {kind}(momentum=0.9)."
            )
        if isinstance(owner, _DROPOUTS) and not hasattr(owner, "seed_generator"):
            raise ValueError(
                f"{kind} was made with a rate of 0, for which it has no random seed. Make it with "
                f"another rate, and let the schedule begin with 0: {kind}(0.5) and {{0: 0.0}}."
            )
        self.name, self.optimizer = name, optimizer
        self._owner, self._open = owner, 0
        self._description = f"The attribute {name!r} of {kind}"
        self.variable = ScheduledNumber(self._description, numbers[name], _dtype_in_step(owner))

    @property
    def value(self):
        """The present value, a float."""
        return float(self._held_in[self.name])

    @value.setter
    def value(self, value):
        self.check_exact(value)
        self.variable.assign(value)
        self._held_in[self.name] = value

    def check_exact(self, value):
        """Refuses a number that Keras would refuse where the object is made.

        Args:
            value: A number, or what a step computes, which is looked at when the step is over.
        """
        if ops.is_tensor(value) or not isinstance(self._owner, _WITH_FRACTIONS):
            return
        if self.name in ("momentum", "rate", "stddev") and not 0 <= value <= 1:
            raise ValueError(f"{self._description} is between 0 and 1. Schedule gave it {value!r}.")

    def is_same(self, other):
        """Whether `other`, a target too, changes the same number."""
        return getattr(other, "_owner", None) is self._owner and other.name == self.name

    @property
    def numbers_in_step(self):
        """The number of this step, a list of one scalar tensor, and outside of a step none."""
        return [] if self.variable.held is None else [self.variable.held]

    def keep_value(self):
        """Sets the attribute to the number that the last step had."""
        self.check_exact(float(self.variable.numpy()))
        self._held_in[self.name] = float(self.variable.numpy())

    @contextlib.contextmanager
    def in_step(self):
        """The context in which the attribute is what a step has to compute with."""
        # Replicas are threads, which may enter and leave in any order: the first and the last act.
        if not self._open:
            self._number = self._held_in[self.name]
        self._open += 1
        self.variable.hold()
        self._held_in[self.name] = backend.updates.number_in_step(self.variable)
        try:
            yield
        except Exception as error:
            error.add_note(
                f"{self._description} is scheduled, and so a tensor in a compiled step, which "
                "takes no functions of Python's such as math.sqrt. If that is the cause, make it a "
                "keras.Variable and use keras.ops in the place where it is read."
            )
            raise
        finally:
            self._open -= 1
            if not self._open:
                self.variable.let_go()
                self._held_in[self.name] = self._number

    @property
    def is_read(self):
        """Whether a step has read it; on PyTorch, where it is a plain number, none can tell."""
        return self.variable.is_read


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)


_DROPOUTS = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)


_WITH_FRACTIONS = (keras.optimizers.Optimizer, *_DROPOUTS)


def _dtype_in_step(owner):
    """What a layer computes with; Keras computes batch statistics in float32 at least."""
    if isinstance(owner, keras.layers.BatchNormalization):
        return "float64" if owner.variable_dtype == "float64" else "float32"
    return owner.compute_dtype if isinstance(owner, keras.Layer) else None


def _keeps_momentum(owner):
    """Whether an optimizer was built with a momentum, which a schedule may have taken to 0."""
    return any("momentum" in v.path for v in getattr(owner, "variables", []))


def _that_has(optimizer, name):
    """The optimizer around or inside `optimizer` whose own number `name` is."""
    optimizers = chain(optimizer)
    return next((o for o in optimizers if _is_number(vars(o).get(name))), optimizers[-1])


def _learning_rate(optimizer):
    if not has_learning_rate(optimizer):
        raise ValueError(
            f"{type(optimizer).__name__} has no learning rate to schedule. Schedule another number."
        )
    inner = chain(optimizer)[-1]
    if holds_several(inner):
        raise ValueError(
            "A MultiOptimizer has a learning rate for each of its optimizers. Name the one that "
            "you mean, for example Schedule((first, 'learning_rate'), {0: 0.1, 10: 0.01}) with "
            "first = model.optimizer.optimizers[0]."
        )
    variable = learning_rate_variable(inner)
    if variable is None:
        raise ValueError(
            "The optimizer has a learning-rate schedule of its own, which would not let another "
            "one change the rate. Give it the schedule that you mean, for example keras.optimizers."
            "Adam(kc.optimizers.schedules.Warmup(schedule, steps=100)), or a number."
        )
    if optimizer.learning_rate is not variable:
        raise ValueError(
            f"{type(optimizer).__name__} controls its step size itself. Give it adaptive=False to "
            "schedule it, or schedule another number."
        )
    return variable
