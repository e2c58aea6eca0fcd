"""`StepSizeControl`: tries a step with smaller sizes until its error is within the tolerance."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_cool.backend import scalars
from keras_cool.float64 import measured_dtype
from keras_cool.optimizers.runge_kutta.control_settings import check_settings, checked_rtol
from keras_cool.optimizers.runge_kutta.local_error import error_norm, first_step_size
from keras_cool.optimizers.steering_numbers import larger, smaller
from keras_cool.optimizers.weighted_sum import add_to_smallest, zero_if_finite

SAFETY, SMALLEST_FACTOR, LARGEST_FACTOR = 0.9, 0.2, 10.0  # as in SciPy's `solve_ivp`


class Step(NamedTuple):
    """A step after its tries: the accepted one, or the last."""

    size: Any  # scalar tensor, the step size
    estimate: list  # the gradient estimate; NaN if no try was accepted
    last_loss: Any  # the loss of the last stage, at the new point
    last_gradients: list  # its gradients, or an empty list if `keep_last` is false
    choices: Any  # scalar integer tensor: the evaluations to choose a first step size, 0 or 1
    tries: Any  # scalar integer tensor: how often the stages were computed


class StepSizeControl:
    """Chooses step sizes by the embedded error. Its state is in Keras variables.

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
        # float32 at least: the loss may be in half precision, step sizes and times are not.
        self.dtype = measured_dtype()
        self.order, self.atol, self.max_step = order, atol, max_step
        self.rtol = checked_rtol(rtol, self.dtype)
        self.controller, self.max_rejections = controller, max_rejections

        def variable(name, dtype=self.dtype, value=0):
            return optimizer.add_variable(
                (),
                keras.initializers.Constant(np.float64(value)),  # TensorFlow would round a float
                dtype,
                aggregation="only_first_replica",
                name=name,
            )

        self.next_step_size = variable("next_step_size", value=0.0 if chosen else first_step)
        self.is_to_choose = variable("is_to_choose", "int32", value=int(chosen))
        self.step_size = variable("step_size")
        self.previous_error = variable("previous_error", value=1.0)
        self.flow_time = variable("flow_time")
        self.time_left_over = variable("time_left_over")  # what rounding took from the sum
        self.evaluations = variable("evaluations_of_step", "int32")
        self.rejected_tries = variable("rejected_tries", "int32")
        self.too_large_steps = variable("too_large_steps", "int32")

    @property
    def variables(self):
        """All variables of the control. What a skipped step assigns to them is kept."""
        return [
            self.next_step_size,
            self.is_to_choose,
            self.step_size,
            self.previous_error,
            self.flow_time,
            self.time_left_over,
            self.evaluations,
            self.rejected_tries,
            self.too_large_steps,
        ]

    def logs(self):
        """Returns the entries of the logs: names and variables."""
        return {
            "step_size": self.step_size,
            "flow_time": self.flow_time,
            "rejected_tries": self.rejected_tries,
            "too_large_steps": self.too_large_steps,
        }

    def step(self, evaluate, point, first, preconditioner, try_step, keep_last):
        """Tries a step with smaller and smaller sizes until its error is within the tolerance.

        Args:
            evaluate: As for `estimate_gradient`, called at the point already.
            point: List of tensors.
            first: List of tensors, the gradients at the point.
            preconditioner: List of tensors, or `None`.
            try_step: A function: `try_step(size)` returns the `Stages` of a step, with the error.
            keep_last: Boolean, whether to return the last stage.

        Returns:
            `Step`.
        """
        sound = ops.isfinite(zero_if_finite(first))  # a smaller step would not fix that
        choices, size = self.first_size(evaluate, point, first, preconditioner, sound)

        def goes_on(tries, size, next_size, accepted, *_):
            return sound & ops.logical_not(accepted) & (tries <= self.max_rejections)

        def attempt(tries, _, size, *__):
            size = smaller(size, self.max_step)
            tried = try_step(size)
            norm = self.error_of(tried, size, point, preconditioner)
            accepted, next_size = self.judged(
                norm, size, self.previous_error.value, rejected_before=tries > 0
            )
            loss, last = tried.last if keep_last else (norm, [])
            loss = ops.cast(loss, self.dtype)
            return (tries + 1, size, next_size, accepted, norm, loss, *tried.estimate, *last)

        n = len(first)
        zero = ops.zeros_like(size)
        none = ops.zeros((), "int32")
        start = (none, size, size, sound & False, zero, zero, *first)
        tries, size, next_size, accepted, norm, loss, *lists = evaluate.while_loop(
            goes_on, attempt, (*start, *first) if keep_last else start
        )
        self.note(
            size=ops.where(accepted, size, ops.zeros_like(size)),
            next_size=next_size,
            error=ops.where(accepted, norm, self.previous_error.value),
            rejected=tries - ops.cast(accepted, "int32"),
            too_large=sound & ops.logical_not(accepted),
        )
        estimate = add_to_smallest(lists[:n], ops.where(accepted, 0.0, math.nan))
        return Step(size, estimate, loss, lists[n:], choices, tries)

    def first_size(self, evaluate, point, first, preconditioner, sound):
        """Returns how many evaluations it took to choose the size that is tried first, and it.

        Arguments as of `step`, and `sound`, a scalar boolean tensor: whether the first gradients
        are finite.
        """
        known = self.next_step_size.value + 0  # a copy: PyTorch assigns in place
        choose = sound & (self.is_to_choose.value > 0)

        def chosen(count, _):
            size = first_step_size(
                evaluate, point, first, self.order, self.rtol, self.atol, self.dtype, preconditioner
            )
            return count + 1, size

        self.is_to_choose.assign(ops.where(choose, 0, self.is_to_choose.value))
        return evaluate.while_loop(
            lambda count, _: choose & (count < 1), chosen, (ops.zeros((), "int32"), known)
        )

    def error_of(self, tried, size, point, preconditioner=None):
        """Returns the error of the `Stages` of a step in units of the tolerance, a scalar tensor.

        It is not finite if a stage, or the point after the step, is not.
        """
        norm = error_norm(
            tried.error,
            size,
            point,
            tried.new_point,
            self.rtol,
            self.atol,
            self.dtype,
            preconditioner,
        )
        return norm + ops.cast(tried.zero_or_nan, self.dtype)

    def judged(self, norm, size, previous_error, rejected_before):
        """Returns whether a try is accepted, and the size of the next one.

        Args:
            norm: Number, the error in units of the tolerance.
            size: Number, the step size.
            previous_error: Number, the error of the last accepted step.
            rejected_before: Boolean, whether a try of the same step was rejected before.
        """
        accepted = norm < 1
        factor = self._factor(norm, accepted, previous_error, rejected_before)
        # Not zero and not infinite: no factor would lead back from there.
        next_size = smaller(larger(size * factor, 1e-30), 1e30)
        return accepted, scalars.where(size > 0, next_size, size)  # zero, if it was set, stays zero

    def _factor(self, norm, accepted, previous_error, rejected_before):
        k = self.order + 1
        is_finite = scalars.is_finite(norm)
        norm = larger(norm, 1e-30)  # an error of zero gives the largest factor
        factor = SAFETY * scalars.power(norm, -1 / k)
        if self.controller == "PI":
            previous = larger(previous_error, 1e-30)
            of_norm = SAFETY * scalars.power(norm, -0.7 / k)
            smoothed = of_norm * scalars.power(previous, 0.4 / k)
            factor = scalars.where(accepted, smoothed, factor)
        factor = scalars.where(is_finite, factor, 0.0)
        factor = scalars.where(
            rejected_before, smaller(factor, 1.0), smaller(factor, LARGEST_FACTOR)
        )
        return larger(factor, SMALLEST_FACTOR)

    def note(self, size, next_size, error, rejected, too_large, time=None):
        """Assigns to the state what a training step has done.

        Args:
            size: Number, the size of the last accepted step, or 0.
            next_size: Number, the size that the next step tries first.
            error: Number, the error of the last accepted step, of an earlier training step too.
            rejected: Integer, the number of rejected tries.
            too_large: Boolean, whether the last try was rejected too.
            time: Number, how much flow time has passed. Defaults to `size`, as after one step.
        """
        self.next_step_size.assign(next_size)
        self.step_size.assign(size)
        self.previous_error.assign(error)
        # Kahan summation, so that short steps after a long time are not lost.
        taken = (size if time is None else time) + self.time_left_over.value
        time = self.flow_time.value + taken
        self.time_left_over.assign(taken - (time - self.flow_time.value))
        self.flow_time.assign(time)
        self.rejected_tries.assign_add(rejected)
        self.too_large_steps.assign_add(ops.cast(too_large, "int32"))
