"""`OneCycle`: the learning rate rises once, then falls to almost zero."""

import keras
from keras import ops

from keras_cool.optimizers.schedules.ramp import (
    RAMPS,
    as_rate,
    check_number,
    check_shape,
    check_steps,
)
from keras_cool.optimizers.schedules.rate_schedule import RateSchedule


@keras.saving.register_keras_serializable(package="keras_cool")
class OneCycle(RateSchedule):
    r"""Raises the learning rate over the first part of the training, then lowers it to the end.

    At update \(t = 0, 1, \ldots, n - 1\), with the last update of the rise
    \(m = n\, \text{pct_start} - 1\),

    \[ \eta(t) = \eta_0 + (\eta_{\max} - \eta_0)\, r\!\left(\tfrac{t}{m}\right) \quad (t \le m),
       \qquad
       \eta(t) = \eta_1 + (\eta_{\max} - \eta_1)\, r\!\left(\tfrac{n - 1 - t}{n - 1 - m}\right)
       \quad (t > m), \]

    \(\eta_0 = \eta_{\max} / \text{div_factor}\), \(\eta_1 = \eta_0 / \text{final_div_factor}\),
    and \(r(p) = (1 - \cos \pi p) / 2\) or \(r(p) = p\). After update \(n - 1\) it stays at
    \(\eta_1\). Names and values are those of PyTorch's `OneCycleLR` in two phases. It is a
    `LearningRateSchedule`. Like [`Warmup`][keras_cool.optimizers.schedules.Warmup], it is compiled
    into the step, changes with every update, and continues after loading.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> rate = kc.optimizers.schedules.OneCycle(1.0, steps=10, shape="linear")
    >>> [round(float(rate(step)), 2) for step in range(10)]
    [0.04, 0.52, 1.0, 0.86, 0.71, 0.57, 0.43, 0.29, 0.14, 0.0]
    >>> optimizer = keras.optimizers.SGD(rate, momentum=0.9)

    Args:
        maximum: Float, at least 0: the highest learning rate.
        steps: Positive integer, the number of updates of the whole training:
            `epochs * math.ceil(samples / batch_size)`.
        pct_start: Float from 0 to 1, the fraction of the updates over which the rate rises.
            Defaults to `0.3`.
        div_factor: Float, at least 1: what the maximum is divided by for the first update.
            Defaults to `25.0`.
        final_div_factor: Float, at least 1: what the first rate is divided by for the last
            update. Defaults to `1e4`.
        shape: String, `"cosine"` or `"linear"`. Defaults to `"cosine"`.
        name: String or `None`. The name of the schedule. Defaults to `"one_cycle"`.

    Raises:
        TypeError: If a number is not one.
        ValueError: If an argument is not as above, or the rise or the fall has no step.

    Reference:
        Smith and Topin, 2018, "Super-Convergence: Very Fast Training of Neural Networks Using
        Large Learning Rates", section 3 (the 1cycle policy).
    """

    def __init__(
        self,
        maximum,
        steps,
        pct_start=0.3,
        div_factor=25.0,
        final_div_factor=1e4,
        shape="cosine",
        name=None,
    ):
        super().__init__()
        check_number(self, "maximum", maximum)
        check_steps(self, steps)
        check_number(self, "pct_start", pct_start, highest=1.0)
        check_number(self, "div_factor", div_factor, lowest=1.0)
        check_number(self, "final_div_factor", final_div_factor, lowest=1.0)
        check_shape(self, shape, RAMPS)
        if not 1 < pct_start * steps < steps:
            raise ValueError(
                f"With steps={steps} and pct_start={pct_start} the learning rate rises over "
                f"{pct_start * steps:g} updates: that is more than 1 and less than `steps`. "
                "`steps` counts the updates of the whole training: epochs * math.ceil(samples / "
                "batch_size)."
            )
        self.maximum = maximum
        self.steps = steps
        self.pct_start = pct_start
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.shape = shape
        self.name = name or "one_cycle"

    def __call__(self, step):
        """Returns the learning rate of the update `step`, a scalar tensor."""
        with keras.name_scope(self.name):
            ramp = RAMPS[self.shape]
            maximum = as_rate(float(self.maximum))
            step = ops.cast(step, maximum.dtype)
            first = self.maximum / self.div_factor
            last = first / self.final_div_factor
            top, end = self.pct_start * self.steps - 1, self.steps - 1
            rise = first + (self.maximum - first) * ramp(ops.clip(step / top, 0.0, 1.0))
            left = ops.clip((end - step) / (end - top), 0.0, 1.0)
            return ops.where(step <= top, rise, last + (self.maximum - last) * ramp(left))

    def get_config(self):
        """Returns the arguments of the schedule."""
        return {
            "maximum": self.maximum,
            "steps": self.steps,
            "pct_start": self.pct_start,
            "div_factor": self.div_factor,
            "final_div_factor": self.final_div_factor,
            "shape": self.shape,
            "name": self.name,
        }


__all__ = ["OneCycle"]
