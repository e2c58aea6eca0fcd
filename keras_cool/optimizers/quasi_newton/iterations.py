"""The iterations of a quasi-Newton step: directions, line searches and tests of convergence."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_cool.backend import scalars, vectors
from keras_cool.optimizers.quasi_newton.line_search import Trial, Wolfe, line_search
from keras_cool.optimizers.steering_numbers import first_case, smaller

TRIALS = 25  # of one line search, at most
SAME = 1e-3  # losses of the same function at the same point, to within the rounding of weights
FLATTER = 0.9  # times the flattest gradient is progress
PATIENCE = 50  # iterations without progress
FAILED = 10  # so many count for one whose line search has failed, which takes all trials
GRADIENT, CHANGE, NO_DECREASE, NO_PROGRESS = 1, 2, 3, 4  # why the iterations have ended
TOO_LONG, NO_SQUARE = 5, 6  # errors
REASONS = {
    GRADIENT: "no entry of the gradient is larger than gradient_tolerance={gradient_tolerance}",
    CHANGE: "the last iteration moved no weight further than change_tolerance={change_tolerance}",
    NO_DECREASE: "no lower loss was found along the gradient, to within the rounding of {dtype}",
    NO_PROGRESS: "neither loss nor gradient become smaller any more, to within the rounding of "
    "{dtype}",
}
ERRORS = {
    TOO_LONG: "No lower loss was found along the gradient, down from first_step={first_step}: that "
    "is too long. No weight has moved. Give a smaller one, or None.",
    NO_SQUARE: "The square of the gradient is not a number of {dtype}: it is too large, or too "
    "small. No weight has moved. Scale the loss, or train in float64 with "
    "keras_cool.enable_float64().",
}


class Progress(NamedTuple):
    """What the iterations so far have come to, whose numbers go on from step to step."""

    loss: Any  # the last one
    lowest: Any  # loss
    flattest: Any  # gradient: the smallest of their largest entries
    stale: Any  # so many iterations have made neither smaller; see `FAILED`


class State(NamedTuple):
    """What goes on from iteration to iteration: numbers as `backend.scalars` has them, vectors."""

    iterations: Any  # how many there were in this step
    evaluations: Any  # how many gradients they took
    why: Any  # why they have ended: 0, or a key of `REASONS`
    size: Any  # the last step size
    decrease: Any  # by how much the last iteration lowered the loss
    lowest: Any  # as in `Progress`
    flattest: Any
    stale: Any
    loss: Any
    point: Any  # vector
    gradient: Any  # vector, the gradient there


class Iterations:
    """Minimises a loss from a point, along directions of an inverse Hessian.

    Args:
        evaluate: As for `estimate_gradient`.
        like: List of tensors, of whose shapes and dtypes a point is.
        hessian: The inverse Hessian, such as a `LimitedMemory`.
        dtype: String, the dtype of vectors and numbers.
        max_iterations, max_evaluations, gradient_tolerance, change_tolerance, first_step, c1, c2:
            As `LBFGS` describes them.
    """

    def __init__(
        self,
        evaluate,
        like,
        hessian,
        dtype,
        *,
        max_iterations,
        max_evaluations,
        gradient_tolerance,
        change_tolerance,
        first_step,
        c1,
        c2,
    ):
        self._evaluate, self._like = evaluate, like
        self._hessian, self._dtype = hessian, dtype
        self._max_iterations, self._max_evaluations = max_iterations, max_evaluations
        self._gradient_tolerance, self._change_tolerance = gradient_tolerance, change_tolerance
        self._first_step = first_step
        self._eps = float(np.finfo(dtype).eps)
        # A loss is rounder than its dtype: a small residual has the rounding of a large prediction.
        self._wolfe = Wolfe(c1, c2, rounding=1000 * self._eps)

    def run(self, loss, point, gradient, decrease, progress, curvature):
        """Runs the iterations.

        Args:
            loss: Number, the loss at the point.
            point: Vector.
            gradient: Vector, the gradient there.
            decrease: Number, by how much the last iteration before lowered the loss.
            progress: `Progress` of the iterations before.
            curvature: The state of the inverse Hessian.

        Returns:
            `(state, curvature)`, a `State` and the state of the inverse Hessian. If loss or
            gradient are not finite there was no iteration.
        """
        steepest, square = scalars.known(
            vectors.largest(gradient), vectors.inner(gradient, gradient)
        )
        is_sound = scalars.is_finite(loss) & scalars.is_finite(steepest)
        has_square = scalars.is_finite(square) & ((square > 0) | scalars.logical_not(steepest > 0))
        has_square = has_square | scalars.logical_not(is_sound)
        zero, none, one = self._number(0.0), self._count(0), self._count(1)
        why = scalars.where(
            steepest <= self._gradient_tolerance,
            self._count(GRADIENT),
            scalars.where(has_square, none, self._count(NO_SQUARE)),
        )
        # Of another function, as after dropout has drawn anew, they say nothing.
        is_same = abs(loss - progress.loss) <= SAME * abs(loss)
        lowest = scalars.where(is_same, progress.lowest, loss)
        flattest = scalars.where(is_same, progress.flattest, steepest)
        stale = scalars.where(is_same, progress.stale, none)
        start = State(
            none, one, why, zero, decrease, lowest, flattest, stale, loss, point, gradient
        )
        size, kind = len(start), type(curvature)

        def goes_on(*values):
            state = State(*values[:size])
            within = state.iterations < self._max_iterations
            within = within & (state.evaluations < self._max_evaluations)
            return is_sound & within & (state.why == 0)

        def iterate(*values):
            state, curvature = self._iterate(State(*values[:size]), kind(*values[size:]))
            return (*state, *curvature)

        values = self._evaluate.while_loop(goes_on, iterate, (*start, *curvature))
        return State(*values[:size]), kind(*values[size:])

    def _iterate(self, state, curvature):
        hessian, gradient = self._hessian, state.gradient
        direction = -hessian.times(curvature, gradient)
        slope, square = scalars.known(
            vectors.inner(gradient, direction), vectors.inner(gradient, gradient)
        )
        is_steepest = scalars.logical_not(slope < 0)
        curvature = hessian.cleared(curvature, is_steepest)
        direction = scalars.where(is_steepest, -gradient, direction)
        slope = scalars.where(is_steepest, -square, slope)
        is_new = hessian.is_empty(curvature)

        def evaluate_at(size):
            trial = vectors.unflattened(state.point + size * direction, self._like)
            loss, gradients = self._evaluate(trial)
            there = vectors.flattened(gradients, self._dtype)
            slope = vectors.inner(there, direction)
            return *scalars.known(ops.cast(loss, self._dtype), slope), there

        found = line_search(
            evaluate_at,
            self._evaluate.while_loop,
            Trial(self._number(0.0), state.loss, slope),
            gradient,
            first=scalars.where(
                is_new, self._size_along_gradient(square), self._size(state.decrease, slope)
            ),
            most=TRIALS,
            settings=self._wolfe,
        )
        size, loss, end_slope = found.step
        expected = abs(found.last * slope)  # decrease, at the last trial
        step, change = size * direction, found.gradient - gradient
        point = state.point + step
        product, steepest, furthest, extent = scalars.known(
            vectors.inner(step, change),
            vectors.largest(found.gradient),
            vectors.largest(step),
            vectors.largest(point),
        )
        is_kept = product > 10 * self._eps * abs(size * slope)
        curvature = hessian.updated(curvature, step, change, product, -size * size * slope, is_kept)
        has_moved = size > 0
        # Without a lower loss or the condition of curvature the pairs are of no use any more.
        is_lower = state.loss - loss > 10 * self._eps * abs(state.loss)
        is_flatter = abs(end_slope) <= self._wolfe.curvature * abs(slope)
        has_failed = scalars.logical_not(has_moved & (is_lower | is_flatter))
        curvature = hessian.cleared(curvature, has_failed)
        is_stuck = scalars.logical_not(has_moved) & is_new
        one = self._number(1.0)
        is_better = (loss < state.lowest) | (steepest < FLATTER * state.flattest)
        more = scalars.where(has_failed, self._count(FAILED), self._count(1))
        stale = scalars.where(is_better, self._count(0), state.stale + more)
        is_at_rest = furthest <= self._change_tolerance * scalars.where(extent > 1, extent, one)
        state = State(
            state.iterations + 1,
            state.evaluations + found.trials,
            first_case(
                (has_moved & (steepest <= self._gradient_tolerance), GRADIENT),
                (is_at_rest & scalars.logical_not(has_failed), CHANGE),
                (has_moved & (stale >= PATIENCE), NO_PROGRESS),
                # Where nothing is lower along another direction, something may be along this one.
                (is_stuck & self._is_too_long(expected, loss), TOO_LONG),
                (is_stuck, NO_DECREASE),
            ),
            size,
            state.loss - loss,
            smaller(loss, state.lowest),
            smaller(steepest, state.flattest),
            stale,
            loss,
            point,
            found.gradient,
        )
        return state, curvature

    def _size_along_gradient(self, square):
        """The step size that is tried along the gradient, whose square is given."""
        if self._first_step is not None:
            return self._number(self._first_step)
        norm, one = scalars.square_root(square), self._number(1.0)
        return scalars.where(norm > 1, scalars.divided(one, norm), one)

    def _size(self, decrease, slope):
        """The step size that is tried first along a direction of the inverse Hessian: 1, or one by
        which the loss would fall about as far as in the last iteration, as SciPy does."""
        one = self._number(1.0)
        if self._hessian.has_scale:
            return one
        size = -2.02 * scalars.divided(decrease, slope)
        return scalars.where((size > 0) & (size < 1), size, one)

    def _is_too_long(self, expected, loss):
        """Whether a given first step was too long, by the decrease expected at the last trial."""
        if self._first_step is None:
            return scalars.number(False, "bool")
        return expected > self._wolfe.rounding * abs(loss)

    def _number(self, value):
        return scalars.number(value, self._dtype)

    def _count(self, value):
        return scalars.number(value, "int32")
