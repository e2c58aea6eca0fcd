"""`Warmup`: a learning rate, or any schedule of it, that starts low."""

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_cool.optimizers.schedules.ramp import (
    RAMPS,
    as_rate,
    check_number,
    check_shape,
    check_steps,
)
from keras_cool.optimizers.schedules.rate_schedule import RateSchedule


@keras.saving.register_keras_serializable(package="keras_cool")
class Warmup(RateSchedule):
    r"""Warms the learning rate up, update by update, then follows its own schedule.

    At update \(t = 0, 1, 2, \ldots\) the learning rate is

    \[ \eta(t) = \bigl(\alpha + (1 - \alpha)\, r(t / n)\bigr)\, \eta_{\text{own}}(t)
       \quad (t < n), \qquad \eta(t) = \eta_{\text{own}}(t) \quad (t \ge n), \]

    with \(n\) the `steps`, \(\alpha\) the `initial` fraction and the ramp \(r(p) = p\) or
    \(r(p) = (1 - \cos \pi p) / 2\). The own schedule counts from the first update on, the warm-up
    included. As in Keras' `CosineDecay(warmup_target, warmup_steps)` the first update has the
    initial rate, and update \(n\), counted from 0, is the first with the full rate.

    It is a `LearningRateSchedule`, for the `learning_rate` of any optimizer. It is computed within
    the compiled step, so it is right with `steps_per_execution` too. It continues after loading,
    since it is a function of `optimizer.iterations`, which are saved with the model. With
    `keras_cool.optimizers.Accumulate` it counts updates, not batches.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> rate = kc.optimizers.schedules.Warmup(0.1, steps=4)
    >>> [round(float(rate(step)), 3) for step in range(6)]
    [0.0, 0.025, 0.05, 0.075, 0.1, 0.1]
    >>> decay = keras.optimizers.schedules.ExponentialDecay(0.1, 1000, 0.5)
    >>> rate = kc.optimizers.schedules.Warmup(decay, steps=100, initial=0.01)
    >>> optimizer = keras.optimizers.Adam(rate)

    Args:
        learning_rate: Float, or a `keras.optimizers.schedules.LearningRateSchedule`: the rate to
            warm up to.
        steps: Positive integer, the number of updates that the warm-up takes. Five epochs are
            `5 * math.ceil(samples / batch_size)`.
        initial: Float from 0 to 1, the fraction of the rate that the first update has. Defaults to
            `0.0`.
        shape: String, `"linear"` or `"cosine"`. Defaults to `"linear"`.
        name: String or `None`. The name of the schedule. Defaults to `"warmup"`.

    Raises:
        TypeError: If `learning_rate` is neither a number nor a schedule.
        ValueError: If another argument is not as above.

    Reference:
        Goyal et al., 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", section
        2.2 (gradual warmup).
    """

    def __init__(self, learning_rate, steps, initial=0.0, shape="linear", name=None):
        super().__init__()
        if not isinstance(learning_rate, LearningRateSchedule):
            check_number(self, "learning_rate", learning_rate)
        check_steps(self, steps)
        check_number(self, "initial", initial, highest=1.0)
        check_shape(self, shape, ("linear", "cosine"))
        self.learning_rate = learning_rate
        self.steps = steps
        self.initial = initial
        self.shape = shape
        self.name = name or "warmup"

    def __call__(self, step):
        """Returns the learning rate of the update `step`, a scalar tensor."""
        rate = self.learning_rate
        rate = as_rate(rate(step) if callable(rate) else rate)
        with keras.name_scope(self.name):
            step = ops.cast(step, rate.dtype)
            factor = self.initial + (1 - self.initial) * RAMPS[self.shape](step / self.steps)
            return ops.where(step < self.steps, factor * rate, rate)

    def get_config(self):
        """Returns the arguments of the schedule."""
        rate = self.learning_rate
        if isinstance(rate, LearningRateSchedule):
            rate = keras.saving.serialize_keras_object(rate)
        return {
            "learning_rate": rate,
            "steps": self.steps,
            "initial": self.initial,
            "shape": self.shape,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the schedule that `get_config` describes."""
        rate = config["learning_rate"]
        if isinstance(rate, dict):
            rate = keras.saving.deserialize_keras_object(rate)
        return cls(**{**config, "learning_rate": rate})


__all__ = ["Warmup"]
