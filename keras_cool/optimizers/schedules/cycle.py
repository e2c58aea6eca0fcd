"""`Cycle`: a learning rate that goes up and down between two bounds."""

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

SHAPES = {"triangular": RAMPS["linear"], "cosine": RAMPS["cosine"]}


@keras.saving.register_keras_serializable(package="keras_cool")
class Cycle(RateSchedule):
    r"""Moves the learning rate up and down between two bounds, again and again.

    At update \(t = 0, 1, 2, \ldots\), with \(c = \lfloor t / n \rfloor\) cycles behind it and the
    fraction \(p = t / n - c\) of the present one,

    \[ \eta(t) = \eta_{\min} + (\eta_{\max} - \eta_{\min})\, d^{\,c}\, r(1 - |2p - 1|), \]

    with \(n\) the `steps`, \(d\) the `decay` and \(r(h) = h\) for `"triangular"`,
    \(r(h) = (1 - \cos \pi h) / 2\) for `"cosine"`. It is a `LearningRateSchedule`. Like
    [`Warmup`][keras_cool.optimizers.schedules.Warmup], it is compiled into the step, changes with
    every update, and continues after loading.

    Cycles that only fall and jump back are Keras' own `CosineDecayRestarts` and
    `PolynomialDecay(cycle=True)`.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> rate = kc.optimizers.schedules.Cycle(0.1, 0.5, steps=4)
    >>> [round(float(rate(step)), 3) for step in range(9)]
    [0.1, 0.3, 0.5, 0.3, 0.1, 0.3, 0.5, 0.3, 0.1]
    >>> optimizer = keras.optimizers.SGD(rate, momentum=0.9)

    Args:
        minimum: Float, at least 0: the learning rate at the start and the end of each cycle.
        maximum: Float, at least `minimum`: the learning rate in the middle of the first cycle.
        steps: Positive integer, the number of updates of a whole cycle, up and down: twice the
            "stepsize" of the reference, where a cycle lasts 4 to 20 epochs.
        shape: String, `"triangular"` or `"cosine"`. Defaults to `"triangular"`.
        decay: Float from 0 to 1, the height of a cycle as a fraction of the cycle before: `0.5`
            is the policy "triangular2". Defaults to `1.0`.
        name: String or `None`. The name of the schedule. Defaults to `"cycle"`.

    Raises:
        TypeError: If a number is not one.
        ValueError: If an argument is not as above.

    Reference:
        Smith, 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.
    """

    def __init__(self, minimum, maximum, steps, shape="triangular", decay=1.0, name=None):
        super().__init__()
        check_number(self, "minimum", minimum)
        check_number(self, "maximum", maximum, lowest=minimum)
        check_steps(self, steps)
        check_shape(self, shape, SHAPES)
        check_number(self, "decay", decay, highest=1.0)
        self.minimum = minimum
        self.maximum = maximum
        self.steps = steps
        self.shape = shape
        self.decay = decay
        self.name = name or "cycle"

    def __call__(self, step):
        """Returns the learning rate of the update `step`, a scalar tensor."""
        with keras.name_scope(self.name):
            minimum = as_rate(float(self.minimum))
            step = ops.cast(step, "int32")  # whole cycles counted exactly
            cycle = ops.cast(ops.floor_divide(step, self.steps), minimum.dtype)
            p = ops.cast(ops.mod(step, self.steps), minimum.dtype) / self.steps
            height = SHAPES[self.shape](1 - ops.absolute(2 * p - 1))
            decay = ops.power(ops.cast(self.decay, minimum.dtype), cycle)
            return minimum + (self.maximum - self.minimum) * decay * height

    def get_config(self):
        """Returns the arguments of the schedule."""
        return {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "steps": self.steps,
            "shape": self.shape,
            "decay": self.decay,
            "name": self.name,
        }


__all__ = ["Cycle"]
