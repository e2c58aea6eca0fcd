"""The first argument of an optimizer that wraps another: what it stands for, and its checks."""

import math
from numbers import Real

import keras
from keras import ops

from keras_cool.keras_private import learning_rate_variable
from keras_cool.optimizer_roles import Accumulator, GradientEstimator


def as_keras_optimizer(optimizer, method):
    """Returns the Keras optimizer that the first argument of a method stands for."""
    if isinstance(optimizer, keras.optimizers.schedules.LearningRateSchedule):
        return keras.optimizers.SGD(optimizer)
    if isinstance(optimizer, Real) and not isinstance(optimizer, bool):
        return keras.optimizers.SGD(_checked_rate(float(optimizer), method))
    if isinstance(optimizer, str):
        return _named(optimizer, method)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"{method} takes a learning rate (a float), a LearningRateSchedule, the name of a "
            f"Keras optimizer, or a Keras optimizer. It was given {optimizer!r}. For example: "
            f"{method}(0.1), {method}('adam'), {method}(keras.optimizers.SGD(0.1, momentum=0.9))."
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"LossScaleOptimizer goes around {method}, not into it: every gradient has to be "
            f"unscaled before {method} combines it. Give {method} the optimizer inside it, "
            f"`{method}(optimizer.inner_optimizer)`. Under the dtype policy mixed_float16 "
            f"`compile` and `inject` make `LossScaleOptimizer({method}(...))` of it themselves."
        )
    if isinstance(optimizer, GradientEstimator):
        raise ValueError(
            f"{method} was given {type(optimizer).__name__}, which takes several gradients a step "
            f"itself. Give it an ordinary Keras optimizer, for example {method}('adam')."
        )
    if isinstance(optimizer, Accumulator):
        raise ValueError(
            f"{method} was given Accumulate. It needs the gradient of the whole batch at several "
            "points; the batches of a window are gone by the time the second point is known. Let "
            f"the model take the batch apart: model.compile({method}(...), microbatch_size=16), "
            "with the large batch in `fit`."
        )
    if optimizer.gradient_accumulation_steps:
        kind, steps = type(optimizer).__name__, optimizer.gradient_accumulation_steps
        raise ValueError(
            f"{method} was given {kind}(gradient_accumulation_steps={steps}), which accumulates "
            f"itself. Make it without that argument: keras_cool.optimizers.Accumulate({kind}(...), "
            f"{steps}), or model.compile({method}(...), microbatch_size=...) with the large batch."
        )
    rate = learning_rate_variable(optimizer)
    if rate is not None:
        _checked_rate(float(ops.convert_to_numpy(rate)), method)
    return optimizer


def _named(name, method):
    known = {
        key.lower(): value
        for key, value in vars(keras.optimizers).items()
        if isinstance(value, type)
        and issubclass(value, keras.optimizers.Optimizer)
        and key not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")  # need arguments
    }
    if name.lower() in known:
        return known[name.lower()]()
    try:
        return keras.optimizers.get(name)  # a registered class of the user's
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{method} was given {name!r}, which is not the name of a Keras optimizer. "
            f"The names are: {', '.join(sorted(known))}. For plain gradient descent give the "
            f"learning rate: {method}(0.1)."
        ) from error


def _checked_rate(rate, method):
    if not math.isfinite(rate) or rate < 0:
        raise ValueError(
            f"{method} was given the learning rate {rate}. It has to be finite and not negative, "
            f"for example {method}(0.1)."
        )
    return rate
