"""The iterations of a Levenberg-Marquardt step: linearise, damp, try."""

from typing import Any, NamedTuple

from keras import ops

from keras_cool.backend import scalars, vectors
from keras_cool.optimizers.gauss_newton.normal_equations import NormalEquations
from keras_cool.optimizers.steering_numbers import first_case

TRIES = 12  # of one iteration, at most: the damping grows by up to 2 ** 78
GRADIENT, CHANGE, NO_DECREASE, NO_SQUARES = 1, 2, 3, 4  # why the iterations have ended
REASONS = {
    GRADIENT: "no entry of the gradient is larger than gradient_tolerance={gradient_tolerance}",
    CHANGE: "the last iteration moved no weight further than change_tolerance={change_tolerance}",
    NO_DECREASE: "no lower loss was found at any damping, to within the rounding of {dtype}",
}
ERRORS = {
    NO_SQUARES: "The loss is no sum of squares: a square has a negative factor, such as the weight "
    "of a sample. The weights are those before this step. Give no negative weights.",
}


class State(NamedTuple):
    """What goes on from iteration to iteration: numbers as `backend.scalars` has them, a vector."""

    iterations: Any  # how many there were in this step
    why: Any  # why they have ended: 0, or one of the numbers above
    damping: Any  # mu; 0: not chosen yet
    growth: Any  # by what it grows at the next try that fails
    loss: Any
    point: Any  # vector


class Iterations:
    """Minimises a sum of squared residuals from a point.

    Args:
        evaluate: As for `estimate_gradient`.
        like: List of tensors, of whose shapes and dtypes a point is.
        dtype: String, the dtype of vectors and numbers.
        damping, max_iterations, gradient_tolerance, change_tolerance: As `LevenbergMarquardt`
            describes them.
    """

    def __init__(
        self,
        evaluate,
        like,
        dtype,
        *,
        damping,
        max_iterations,
        gradient_tolerance,
        change_tolerance,
    ):
        self._evaluate, self._like, self._dtype = evaluate, like, dtype
        self._damping, self._max_iterations = damping, max_iterations
        self._gradient_tolerance, self._change_tolerance = gradient_tolerance, change_tolerance

    def run(self, loss, point, damping, growth):
        """Runs the iterations; returns their `State`.

        If the loss is not finite there is no iteration, and if its gradient is not it stays where
        it is.

        Args:
            loss: Number, the loss at the point.
            point: Vector.
            damping: Number, the damping that the iterations before ended with, or 0.
            growth: Number, by what that is going to grow.
        """
        is_sound = scalars.is_finite(loss)
        none = self._count(0)
        start = State(none, none, damping, growth, loss, point)

        def goes_on(*values):
            state = State(*values)
            return is_sound & (state.iterations < self._max_iterations) & (state.why == 0)

        def iterate(*values):
            return self._iterate(State(*values))

        end = State(*self._evaluate.while_loop(goes_on, iterate, start))
        return end._replace(point=scalars.where(end.why == NO_SQUARES, point, end.point))

    def _iterate(self, state):
        equations = NormalEquations(self._evaluate, state.point, self._like, self._dtype)
        is_flat = equations.steepest <= self._gradient_tolerance
        are_squares = scalars.is_finite(equations.squares)  # no root of a negative factor
        damping = scalars.where(state.damping > 0, state.damping, self._damping * equations.largest)
        is_to_try = scalars.logical_not(is_flat) & are_squares

        def is_lower(loss):
            # By the first alone TensorFlow takes NaN for lower, once it has turned `not <` to `>=`.
            return (loss < state.loss) & scalars.is_finite(loss)

        def fails(tries, damping, growth, loss, step, gain):
            return is_to_try & (tries < TRIES) & scalars.logical_not(is_lower(loss))

        def try_step(tries, damping, growth, *_):
            damping = scalars.where(tries > 0, damping * growth, damping)
            growth = scalars.where(tries > 0, 2 * growth, growth)
            step, expected = equations.step(damping)
            trial = vectors.unflattened(state.point + step, self._like)
            (loss,) = scalars.known(ops.cast(self._evaluate.forward(trial), self._dtype))
            return (
                tries + 1,
                damping,
                growth,
                loss,
                step,
                scalars.divided(state.loss - loss, expected),
            )

        zero = self._number(0.0)
        _, damping, _, loss, step, gain = self._evaluate.while_loop(
            fails,
            try_step,
            (self._count(0), damping, state.growth, state.loss, ops.zeros_like(state.point), zero),
        )
        has_moved = is_lower(loss)
        step = scalars.where(has_moved, step, ops.zeros_like(step))
        furthest, extent = scalars.known(vectors.largest(step), vectors.largest(state.point))
        one = self._number(1.0)
        is_at_rest = furthest <= self._change_tolerance * scalars.where(extent > 1, extent, one)
        why = first_case(
            (scalars.logical_not(are_squares), NO_SQUARES),
            (is_flat, GRADIENT),
            (scalars.logical_not(has_moved), NO_DECREASE),
            (is_at_rest, CHANGE),
        )
        # The gain ratio says how well the linearised sum of squares tells the loss.
        trust = 2.0 * gain - 1.0
        shrunk = 1.0 - trust * trust * trust
        third = self._number(1 / 3)
        shrunk = damping * scalars.where(shrunk > third, shrunk, third)
        return State(
            state.iterations + 1,
            why,
            scalars.where(has_moved, shrunk, scalars.where(is_to_try, zero, damping)),
            self._number(2.0),
            scalars.where(has_moved, loss, state.loss),
            state.point + step,
        )

    def _number(self, value):
        return scalars.number(value, self._dtype)

    def _count(self, value):
        return scalars.number(value, "int32")
