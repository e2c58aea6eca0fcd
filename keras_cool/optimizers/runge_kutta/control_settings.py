"""The settings of step size control: their defaults, their checks and how they combine."""

import math
import warnings
from numbers import Integral, Real

import keras
import numpy as np
from keras import ops

from keras_cool.keras_private import holds_several, learning_rate_variable
from keras_cool.optimizer_roles import chain
from keras_cool.optimizers.preconditioner import follows_a_flow
from keras_cool.optimizers.runge_kutta.tableau import Tableau

CONTROLLERS = ("I", "PI")
DEFAULTS = {
    "rtol": 1e-3,
    "atol": 1e-6,
    "first_step": None,
    "max_step": math.inf,
    "controller": "I",
    "max_rejections": 10,
    "full_batch": False,
    "max_steps": None,
    "flow_time": None,
}
MOST_STEPS = 1000  # of a training step over a given flow time, unless `max_steps` is given


def is_adaptive(adaptive, tableau, method):
    """Returns whether to control the step size. For `None` the tableau decides."""
    if not isinstance(tableau, Tableau):
        raise TypeError(
            f"{method} takes a `Tableau` as its second argument. Got {tableau!r}. For example: "
            f"{method}(0.1, Tableau(a=[[], [1.0]], b=[0.5, 0.5], order=2))."
        )
    if adaptive not in (None, True, False):
        raise TypeError(
            f"`adaptive` of {method} is True, False or None (where the tableau has an embedded "
            f"error). It was given {adaptive!r}."
        )
    embedded = tableau.embedded_order is not None
    if adaptive and not embedded:
        raise ValueError(
            f"{method} was asked to control the step size, and its tableau has no embedded error "
            "to control it by. Give `adaptive=False`, or a tableau with `embedded_weights` and "
            "`embedded_order`."
        )
    return embedded if adaptive is None else bool(adaptive)


def check_one_rate(optimizer, method):
    """Raises a `ValueError` for a `MultiOptimizer`, which has several learning rates."""
    if holds_several(chain(optimizer)[-1]):
        raise ValueError(
            f"{method} was given a MultiOptimizer, which has a learning rate for each of its "
            "optimizers: there is no one step size for the stages. Give one optimizer for "
            f"all variables, for example {method}('adam')."
        )


def check_unused(settings, tableau, method):
    """Raises a `ValueError` for settings of step size control where there is none."""
    unused = [name for name, default in DEFAULTS.items() if settings[name] != default]
    if unused:
        why = (
            "its tableau has no embedded error"
            if tableau.embedded_order is None
            else "adaptive=False"
        )
        raise ValueError(
            f"{method} does not control its step size, {why}, and would not use {unused}. Leave "
            "them out, or use a method with an embedded error, such as RK23 or RK45."
        )


def check_controllable(optimizer, method):
    """Raises a `ValueError` for an inner optimizer whose step size cannot be controlled."""
    if not follows_a_flow(optimizer):
        raise ValueError(
            f"{method} cannot control the step size over {type(optimizer).__name__}: its step is "
            "none along a gradient flow, so that the error says nothing about it. Give "
            f"`adaptive=False`, or gradient descent, Adam or the like: {method}('adam')."
        )
    if learning_rate_variable(chain(optimizer)[-1]) is None:
        raise ValueError(
            f"{method} was given a learning-rate schedule, but controls the step size itself. Give "
            f"`adaptive=False` to follow the schedule, or a first step size: {method}(0.1)."
        )
    if optimizer.gradient_accumulation_steps:
        raise ValueError(
            f"{method} was given {type(optimizer).__name__} with gradient_accumulation_steps="
            f"{optimizer.gradient_accumulation_steps}: it cannot control the size of a step "
            "that is taken later. Leave the accumulation out, or give `adaptive=False`."
        )


def steps_exactly(optimizer):
    """Whether an optimizer takes the step of the method exactly, and ends at the same point.

    Settings that change later, and changes between two steps, show in the weights.
    """
    changes = ("momentum", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm")
    is_descent = isinstance(optimizer, keras.optimizers.SGD)
    return is_descent and not any(getattr(optimizer, name) for name in changes)


def takes_several(settings):
    """Whether a training step is to take more than one step, or to last a given flow time."""
    return settings["max_steps"] not in (None, 1) or settings["flow_time"] is not None


def check_several(settings, optimizer, method):
    """Raises a `ValueError` if the number of steps or the flow time has no meaning."""
    max_steps, flow_time = settings["max_steps"], settings["flow_time"]
    if max_steps is not None and (not _is_whole(max_steps) or max_steps < 1):
        raise ValueError(
            f"`max_steps` has to be a whole number of at least 1: the accepted steps of a training "
            f"step. Got {max_steps!r}. The largest step size is `max_step`."
        )
    if flow_time is not None and (not _is_positive(flow_time) or math.isinf(flow_time)):
        raise ValueError(
            f"`flow_time` has to be a finite number above 0. Got {flow_time!r}. Leave it out for "
            "a number of steps, `max_steps`."
        )
    if not takes_several(settings):
        return
    name = "max_steps" if flow_time is None else "flow_time"
    given = f"{name}={settings[name]}"
    if not settings["full_batch"]:
        raise ValueError(
            f"{method} was given {given}: several steps in one training step, all on the same "
            f"batch. Give {method}(..., {given}, full_batch=True) and the full batch to `fit`, or "
            f"leave `{name}` out."
        )
    if not steps_exactly(optimizer):
        raise ValueError(
            f"{method} was given {given}, and takes several steps only with plain gradient "
            f"descent: {type(optimizer).__name__} with momentum, a preconditioner, weight decay or "
            f"clipping acts once in a training step. Give a learning rate, {method}(0.1, {given}, "
            f"full_batch=True), or leave `{name}` out."
        )


def check_full_batch(full_batch, optimizer, tableau, method):
    """Raises a `ValueError` if there is no last stage to keep. Warns if it would not be used."""
    if full_batch and tableau.first_same_as_last and not steps_exactly(optimizer):
        warnings.warn(
            f"{method} was given full_batch=True, which has no effect here: over "
            f"{type(optimizer).__name__} with momentum, a preconditioner, weight decay or clipping "
            "a step does not end at the point of the last stage. Leave `full_batch` out, or give a "
            f"learning rate: {method}(0.1, full_batch=True).",
            stacklevel=4,
        )
    if full_batch and not tableau.first_same_as_last:
        raise ValueError(
            f"{method} was given full_batch=True, which keeps the last stage for the next step; "
            "the last stage of its tableau is none at the new point. Leave `full_batch` out."
        )


def first_step_given(optimizer, first_step, method):
    """Returns the first step size, a float or "auto", from the first argument and `first_step`."""
    rate = None
    if isinstance(optimizer, Real):
        rate = float(as_written(optimizer))
        if first_step not in (None, rate):
            raise ValueError(
                f"{method} was given the first step size twice, {optimizer} and first_step="
                f"{first_step!r}. Give one of them: {method}({optimizer}) or "
                f"{method}(first_step={first_step!r})."
            )
    elif isinstance(optimizer, keras.optimizers.Optimizer):
        rate = as_written(ops.convert_to_numpy(optimizer.learning_rate)[()])
    if first_step is not None:
        return first_step
    return "auto" if rate is None else rate


def as_written(number):
    """Converts a NumPy number to one of Python of the same digits: float32's 0.05 gives 0.05."""
    if isinstance(number, np.integer):
        return int(number)
    return float(str(number)) if isinstance(number, np.floating) else number


def checked_size_to_set(size, method):
    """Returns a step size that was set, or raises an error if it is not a positive number."""
    if ops.is_tensor(size):
        return size  # within a compiled step
    if isinstance(size, keras.Variable):
        size = size.numpy()
    try:
        number = float(size)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(
            f"{method} chooses its step sizes; its learning rate is the size that the next step "
            f"tries first, a finite number above 0. It was set to {size!r}. To follow rates that "
            "are set or scheduled, give `adaptive=False`."
        )
    return number


def checked_rtol(rtol, dtype):
    """Returns the relative tolerance, raised to what the dtype of the computation can resolve."""
    smallest = 100 * float(np.finfo(dtype).eps)
    if rtol >= smallest:
        return rtol
    advice = "" if dtype == "float64" else " For a smaller one call keras_cool.enable_float64()."
    warnings.warn(
        f"`rtol` is {rtol}, below what {dtype} can resolve; {smallest:.2g} is used, a hundred "
        f"times its rounding, as `solve_ivp` does.{advice}",
        stacklevel=5,
    )
    return smallest


def check_settings(rtol, atol, first_step, max_step, controller, max_rejections):
    """Raises a `ValueError` for a setting out of its range."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not _is_positive(value) or math.isinf(value):
            raise ValueError(
                f"`{name}` has to be a finite number above 0. Got {value!r}. SciPy's defaults are "
                "rtol=1e-3, atol=1e-6."
            )
    if not _is_positive(max_step):
        raise ValueError(
            f"`max_step` has to be a number above 0. Got {max_step!r}. Leave it out for steps of "
            "any size."
        )
    if first_step != "auto" and (not _is_positive(first_step) or first_step > max_step):
        raise ValueError(
            f"The first step has to be above 0 and at most max_step={max_step}. Got {first_step!r}."
            ' Leave it out, or give first_step="auto", to have it chosen.'
        )
    if controller not in CONTROLLERS:
        raise ValueError(f'`controller` is "I" or "PI". Got {controller!r}.')
    if not _is_whole(max_rejections) or max_rejections < 0:
        raise ValueError(
            f"`max_rejections` has to be a whole number of at least 0. Got {max_rejections!r}."
        )


def _is_whole(value):
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_positive(value):
    return isinstance(value, Real) and float(value) > 0
