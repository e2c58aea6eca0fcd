"""The arithmetic of the range test: its rates, the smoothed losses, the suggestion."""

import math
from numbers import Integral, Real

import keras
import numpy as np


class GeometricRates(keras.optimizers.schedules.LearningRateSchedule):
    """`minimum * (maximum / minimum) ** (i / (steps - 1))` at the update `start + i`."""

    def __init__(self, minimum, maximum, steps, start=0):
        self.minimum, self.maximum, self.steps, self.start = minimum, maximum, steps, start

    def at(self, i):
        """The rate of the update `i`, counted from 0: a float."""
        return self.minimum * (self.maximum / self.minimum) ** (i / (self.steps - 1))

    def __call__(self, step):
        share = keras.ops.cast(step - self.start, "float32") / (self.steps - 1)
        return self.minimum * (self.maximum / self.minimum) ** share


def smoothed_losses(losses, smoothing):
    """The exponentially weighted means of a sequence, corrected for their start at zero."""
    mean, smoothed = 0.0, []
    for i, loss in enumerate(losses, start=1):
        mean = smoothing * mean + (1 - smoothing) * loss
        smoothed.append(mean / (1 - smoothing**i))
    return np.array(smoothed)


def stretch(smoothing, count):
    """How many updates a smoothed loss is a mean of, roughly: `1 / (1 - smoothing)`, and at most a
    quarter of the test."""
    return max(1, min(round(1 / (1 - smoothing)), count // 4))


def falling_part(smoothed, smoothing):
    """The slice from where the means have settled to their minimum."""
    first = stretch(smoothing, len(smoothed)) - 1
    settled = np.where(np.isfinite(smoothed), smoothed, np.inf)[first:]
    return slice(first, first + int(np.argmin(settled)) + 1)


def steepest_descent(rates, smoothed, smoothing):
    """The rate where the stretch of updates begins in which the smoothed loss falls most.

    `None` if it falls nowhere before its minimum. The start of the stretch, since a mean over the
    losses before lags behind them.
    """
    if len(smoothed) < 3:
        return None
    length = stretch(smoothing, len(smoothed))
    part = falling_part(smoothed, smoothing)
    rates, smoothed = rates[part], smoothed[part]
    length = min(length, len(smoothed) - 1)
    if length < 1:
        return None
    changes = smoothed[length:] - smoothed[:-length]
    steepest = int(np.argmin(changes))
    return float(rates[steepest]) if changes[steepest] < 0 else None


def check_range(minimum, maximum, steps, smoothing, divergence):
    """Raises a `ValueError` for what makes no test."""
    example = "For example: LearningRateFinder(1e-6, 1.0, steps=100)."
    if not (_is_finite(minimum) and _is_finite(maximum) and 0 < minimum < maximum):
        raise ValueError(
            "The rates of LearningRateFinder grow from `minimum` to `maximum`, two finite numbers "
            f"above 0, the second one larger. They were given as {minimum!r} and {maximum!r}. "
            f"{example}"
        )
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 3:
        raise ValueError(
            "`steps` is the number of updates of the test, an integer of at least 3. It was given "
            f"{steps!r}. {example}"
        )
    if not (_is_finite(smoothing) and 0 <= smoothing < 1):
        raise ValueError(
            "`smoothing` is the weight of the losses before in the smoothed loss, at least 0 and "
            f"below 1. It was given {smoothing!r}. Leave it out for 0.9."
        )
    if not (_is_finite(divergence) and divergence > 1):
        raise ValueError(
            "`divergence` is how many times the best smoothed loss ends the test, a number above "
            f"1. It was given {divergence!r}. Leave it out for 4."
        )


def _is_finite(value):
    return isinstance(value, Real) and math.isfinite(value)
