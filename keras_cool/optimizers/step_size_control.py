"""`StepSizeControl`: tries a step with smaller sizes until its error is within the tolerance."""

import math

import keras
from keras import ops

from keras_cool.optimizers.control_settings import check_settings
from keras_cool.optimizers.local_error import error_norm, first_step_size, larger, smaller
from keras_cool.optimizers.weighted_sum import marked, not_finite_mark

SAFETY, SMALLEST_FACTOR, LARGEST_FACTOR = 0.9, 0.2, 10.0  # as in SciPy's `solve_ivp`


class StepSizeControl:
    """Chooses step sizes by the embedded error, and keeps what it knows in variables.

    Args:
        optimizer: The Keras optimizer that gets the variables.
        order: Integer, the order of the error estimate.
        rtol: Float, the relative tolerance.
        atol: Float, the absolute tolerance.
        first_step: Float, the first step size, or `"auto"`: chosen at the first step.
        max_step: Float, the largest step size.
        controller: `"I"` or `"PI"`.
        max_rejections: Integer, how often a step is tried again.
    """

    def __init__(
        self, optimizer, order, rtol, atol, first_step, max_step, controller, max_rejections
    ):
        check_settings(rtol, atol, first_step, max_step, controller, max_rejections)
        chosen = first_step == "auto"
        self.order, self.rtol, self.atol, self.max_step = order, rtol, atol, max_step
        self.controller, self.max_rejections = controller, max_rejections
        # float32 at least: the loss may be in half precision, step sizes and times are not.
        self.dtype = "float64" if keras.config.floatx() == "float64" else "float32"

        def variable(name, dtype=self.dtype, value=0):
            return optimizer.add_variable(
                (),
                keras.initializers.Constant(value),
                dtype,
                aggregation="only_first_replica",
                name=name,
            )

        self.next_step_size = variable("next_step_size", value=0.0 if chosen else first_step)
        self.step_size = variable("step_size")
        self.previous_error = variable("previous_error", value=1.0)
        self.flow_time = variable("flow_time")
        self.time_left_over = variable("time_left_over")  # what rounding took from the sum
        self.evaluations = variable("evaluations_of_step", "int32")
        self.rejected_tries = variable("rejected_tries", "int32")
        self.too_large_steps = variable("too_large_steps", "int32")

    @property
    def variables(self):
        """All of them; what a skipped step assigns to them holds."""
        return [
            self.next_step_size,
            self.step_size,
            self.previous_error,
            self.flow_time,
            self.time_left_over,
            self.evaluations,
            self.rejected_tries,
            self.too_large_steps,
        ]

    def logs(self):
        """What the logs say: names and variables."""
        return {
            "step_size": self.step_size,
            "flow_time": self.flow_time,
            "rejected_tries": self.rejected_tries,
            "too_large_steps": self.too_large_steps,
        }

    def step(self, evaluate, point, first, preconditioner, stages, cost):
        """Takes a step whose error is within the tolerance.

        Args:
            evaluate: As for `estimate_gradient`, called at the point already.
            point: List of tensors.
            first: List of tensors, the gradients at the point.
            preconditioner: List of tensors, or `None`.
            stages: A function: `stages(step_size)` gives `(estimate, error, new_point, mark)`.
            cost: Integer, the gradient evaluations of `stages`.

        Returns:
            `(step_size, estimate)`. The estimate is not a number where no step was accepted.
        """
        sound = ops.isfinite(not_finite_mark(first))  # a smaller step would not mend that
        known = ops.convert_to_tensor(self.next_step_size.value)
        choose = sound & (known <= 0)

        def chosen(count, _):
            size = first_step_size(
                evaluate, point, first, self.order, self.rtol, self.atol, self.dtype, preconditioner
            )
            return count + 1, size

        count, size = evaluate.while_loop(
            lambda count, _: choose & (count < 1), chosen, (ops.zeros((), "int32"), known)
        )

        def goes_on(tries, size, next_size, accepted, *_):
            return sound & ops.logical_not(accepted) & (tries <= self.max_rejections)

        def attempt(tries, _, size, *__):
            size = smaller(size, self.max_step)
            estimate, error, new_point, mark = stages(size)
            norm = error_norm(
                error, size, point, new_point, self.rtol, self.atol, preconditioner
            ) + ops.cast(mark, self.dtype)
            accepted = norm < 1
            factor = self._factor(norm, accepted, rejected_before=tries > 0)
            # Not zero, from which no step size grows again.
            next_size = larger(size * factor, 1e-30)
            return (tries + 1, size, next_size, accepted, norm, *estimate)

        tries, size, next_size, accepted, norm, *estimate = evaluate.while_loop(
            goes_on,
            attempt,
            (ops.zeros((), "int32"), size, size, known != known, ops.ones_like(size), *first),
        )
        self._note(sound, accepted, size, next_size, norm, tries, count, cost)
        return size, marked(estimate, ops.where(accepted, 0.0, math.nan))

    def _factor(self, norm, accepted, rejected_before):
        k = self.order + 1
        norm = larger(norm, 1e-30)  # an error of zero lets the step grow as far as it may
        factor = SAFETY * norm ** (-1 / k)
        if self.controller == "PI":
            previous = larger(self.previous_error.value, 1e-30)
            smoothed = SAFETY * norm ** (-0.7 / k) * previous ** (0.4 / k)
            factor = ops.where(accepted, smoothed, factor)
        factor = ops.where(ops.isfinite(norm), factor, ops.zeros_like(factor))
        factor = ops.where(rejected_before, smaller(factor, 1.0), smaller(factor, LARGEST_FACTOR))
        return larger(factor, SMALLEST_FACTOR)

    def _note(self, sound, accepted, size, next_size, norm, tries, count, cost):
        zero = ops.zeros_like(size)
        taken = ops.where(accepted, size, zero)
        self.next_step_size.assign(next_size)
        self.step_size.assign(taken)
        self.previous_error.assign(ops.where(accepted, norm, self.previous_error.value))
        # Kahan's sum: many short steps after a long time are not lost.
        taken = taken + self.time_left_over.value
        time = self.flow_time.value + taken
        self.time_left_over.assign(taken - (time - self.flow_time.value))
        self.flow_time.assign(time)
        self.evaluations.assign(1 + count + cost * tries)
        self.rejected_tries.assign_add(tries - ops.cast(accepted, "int32"))
        too_large = ops.cast(sound & ops.logical_not(accepted), "int32")
        self.too_large_steps.assign_add(too_large)
