"""Line search for the strong Wolfe conditions: how far to go along a direction."""

import math
from typing import Any, NamedTuple

from keras_cool.backend import scalars

where, is_finite, logical_not = scalars.where, scalars.is_finite, scalars.logical_not

SHORTEST, LONGEST = 1.1, 10.0  # a step that is too short is lengthened by these factors
MARGIN = 1e-3  # a trial keeps this part of the bracket away from its ends
SHRINKS = 0.66  # two trials shorten the bracket to this part, or the next one halves it


class Trial(NamedTuple):
    """A point on the line."""

    size: Any  # the step size, a number as `backend.scalars` has it
    loss: Any  # the loss there
    slope: Any  # its derivative along the line


class Found(NamedTuple):
    """What a line search has come to."""

    step: Trial  # the accepted one; or the lowest, of size 0 where no point is lower
    gradient: Any  # vector, the gradient there
    trials: Any  # how many were made
    last: Any  # the step size that would be tried next


def line_search(evaluate_at, while_loop, start, gradient, first, most, settings):
    r"""Finds a step size that fulfils the strong Wolfe conditions.

    \[ f(\alpha) \le f(0) + c_1 \alpha f'(0), \qquad |f'(\alpha)| \le c_2 |f'(0)|. \]

    Trials bracket such a step, and the minimum of the cubic through the two ends is tried next.
    Where the change of the loss is lost in its rounding, slopes alone decide: the approximate Wolfe
    conditions. A trial whose loss or slope is not finite is too long.

    Args:
        evaluate_at: A function: `evaluate_at(size)` returns `(loss, slope, gradient)`, two numbers
            as `backend.scalars` has them and a vector.
        while_loop: As `evaluate.while_loop`.
        start: `Trial` of size 0; the slope has to be negative.
        gradient: Vector, the gradient at the start.
        first: The first step size to try.
        most: The number of trials that may be made.
        settings: A `Wolfe`.

    Returns:
        `Found`.

    Reference:
        Nocedal and Wright, 2006, "Numerical Optimization", algorithms 3.5 and 3.6, equation (3.59);
        Moré and Thuente, 1994, "Line search algorithms with guaranteed sufficient decrease"; Hager
        and Zhang, 2005, "A new conjugate gradient method with guaranteed descent and an efficient
        line search", equation (4.1).
    """
    rounding = settings.rounding * abs(start.loss)

    def goes_on(trials, size, found, *_):
        return (trials < most) & logical_not(found)

    def attempt(trials, size, _, is_bracketed, last_width, width_before, *rest):
        low, other, lowest = Trial(*rest[:3]), Trial(*rest[3:6]), rest[6]
        loss, slope, there = evaluate_at(size)
        trial = Trial(size, loss, slope)
        bound = start.loss + settings.decrease * size * start.slope
        is_sound = is_finite(loss) & is_finite(slope)
        is_low = is_sound & (loss <= bound + rounding) & (loss <= low.loss + rounding)
        falls = (loss <= bound) | (
            (loss <= start.loss + rounding) & (slope <= (2 * settings.decrease - 1) * start.slope)
        )
        found = is_low & falls & (abs(slope) <= -settings.curvature * start.slope)
        # The minimum is between the new point and `low`, or further on.
        ahead = where(is_bracketed, other.size - low.size, size)
        turns = is_low & (slope * ahead >= 0)
        replaced = is_low & (turns | logical_not(is_bracketed))
        is_bracketed = is_bracketed | logical_not(is_low) | turns
        other = _either(is_low, _either(replaced, low, other), trial)
        lowest = where(is_low, there, lowest)
        low = _either(is_low, trial, low)
        width = abs(other.size - low.size)
        halves = is_bracketed & (width > SHRINKS * width_before)
        size = where(found, size, _next_size(low, other, is_bracketed, halves, rounding))
        stuck = is_bracketed & (width * 1e9 <= size)
        width = where(is_bracketed, width, last_width)
        state = trials + 1, size, found | stuck, is_bracketed, width, last_width
        return *state, *low, *other, lowest

    no, any_width = scalars.number(False, "bool"), first * math.inf
    state = (scalars.number(0, "int32"), first, no, no, any_width, any_width)
    trials, *state = while_loop(goes_on, attempt, (*state, *start, *start, gradient))
    rest = state[5:]
    return Found(Trial(*rest[:3]), rest[6], trials, state[0])


class Wolfe(NamedTuple):
    """The constants of the conditions."""

    decrease: float = 1e-4  # c1
    curvature: float = 0.9  # c2
    rounding: float = 0.0  # the relative rounding of a loss


def _next_size(low, other, is_bracketed, halves, rounding):
    """The next step size to try: of the cubic through `low` and `other`, kept in bounds."""
    width = other.size - low.size
    cubic = _minimum_of_cubic(low, other, rounding)
    # Not finite: no minimum, or `other` is not finite.
    inside = where(is_finite(cubic) & logical_not(halves), cubic, low.size + 0.5 * width)
    inside = _between(inside, low.size + MARGIN * width, other.size - MARGIN * width)
    beyond = where(is_finite(cubic) & (cubic > low.size), cubic, LONGEST * low.size)
    beyond = _between(beyond, SHORTEST * low.size, LONGEST * low.size)
    return where(is_bracketed, inside, beyond)


def _minimum_of_cubic(a, b, rounding):
    width = b.size - a.size
    rise = b.loss - a.loss
    # Of a rise that is lost in rounding, what the slopes say.
    rise = where(abs(rise) <= rounding, 0.5 * (a.slope + b.slope) * width, rise)
    d1 = a.slope + b.slope - scalars.divided(3.0 * rise, width)
    root = scalars.square_root(d1 * d1 - a.slope * b.slope)
    d2 = where(width > 0, root, -root)
    return b.size - width * scalars.divided(b.slope + d2 - d1, b.slope - a.slope + 2.0 * d2)


def _between(a, b, c):
    """`a`, or the nearer one of `b` and `c` if it is not between them."""
    low, high = where(b < c, b, c), where(b < c, c, b)
    return where(a < low, low, where(a > high, high, a))


def _either(condition, a, b):
    return Trial(*(where(condition, x, y) for x, y in zip(a, b, strict=True)))
