"""`Integration`: several accepted steps, or a given flow time, within one training step."""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_cool.backend import scalars, vectors
from keras_cool.optimizers.runge_kutta.stages import run_stages
from keras_cool.optimizers.runge_kutta.step_size_control import Step
from keras_cool.optimizers.steering_numbers import larger, smaller
from keras_cool.optimizers.weighted_sum import add_to_smallest, zero_if_finite


class Progress(NamedTuple):
    """What goes on from try to try: numbers as `backend.scalars` has them."""

    steps: Any  # how many were accepted
    tries: Any  # how often the stages were computed
    rejections: Any  # how many tries of the present step were rejected
    next_size: Any  # the size to try next
    size: Any  # the size of the last accepted step, or 0
    error: Any  # its error in units of the tolerance
    time: Any  # the sum of the accepted sizes
    left_over: Any  # what rounding took from it
    loss: Any  # the loss at the present point


class Integration:
    """Takes steps under control in one loop, whose body is a try. It counts the steps.

    The last stage of an accepted step is the first stage of the next (FSAL).

    Args:
        optimizer: The Keras optimizer that gets the variables.
        control: The `StepSizeControl`.
        tableau: A `Tableau` with an embedded error, whose last stage is at the new point.
        max_steps: Integer, how many steps are accepted at most.
        flow_time: Float, how much flow time passes, or `None`: as much as it takes.
    """

    def __init__(self, optimizer, control, tableau, max_steps, flow_time):
        self._control, self._tableau = control, tableau
        self.max_steps, self._flow_time = max_steps, flow_time
        self._averages = optimizer.inner_optimizer.use_ema
        self._slack = 4 * float(np.finfo(control.dtype).eps) * (flow_time or 0.0)
        self.counters = {"accepted_steps": self._counter(optimizer, "accepted_steps")}
        if flow_time is not None:
            self.counters["unfinished_steps"] = self._counter(optimizer, "unfinished_steps")

    def _counter(self, optimizer, name):
        return optimizer.add_variable(
            (), "zeros", "int32", aggregation="only_first_replica", name=name
        )

    def step(self, evaluate, point, first):
        """Takes the steps.

        Args:
            evaluate: As for `estimate_gradient`, called at the point already.
            point: List of tensors.
            first: List of tensors, the gradients at the point.

        Returns:
            `Step`: the steps as one, over the time that they took in all. Its estimate is the mean
            of the gradient over that time.
        """
        control = self._control
        is_finite = zero_if_finite(first)
        choices, size = control.first_size(evaluate, point, first, None, ops.isfinite(is_finite))
        size, error, is_finite = scalars.known(
            size, control.previous_error.value + 0, ops.cast(is_finite, control.dtype)
        )
        sound = scalars.is_finite(is_finite)
        none, zero = scalars.number(0, "int32"), scalars.number(0.0, control.dtype)
        start = Progress(none, none, none, size, zero, error, zero, zero, zero)
        lists = vectors.packed(point), vectors.packed(first)
        count, n = len(start), len(lists[0])

        def goes_on(*values):
            progress = Progress(*values[:count])
            within = (progress.steps < self.max_steps) & self._is_short(progress.time)
            return sound & within & (progress.rejections <= control.max_rejections)

        def attempt(*values):
            progress, lists = Progress(*values[:count]), values[count:]
            progress, at, gradients = self._attempt(
                evaluate, point, progress, list(lists[:n]), list(lists[n:])
            )
            return (*progress, *at, *gradients)

        values = evaluate.while_loop(goes_on, attempt, (*start, *lists[0], *lists[1]))
        progress, end = Progress(*values[:count]), vectors.unpacked(values[count:][:n], point)
        gradients = vectors.unpacked(values[count:][n:], first)
        if not self._averages:  # which may overwrite the weights
            evaluate.end = end
        self._note(progress, sound)
        has_moved = progress.steps > 0
        time = scalars.where(has_moved, progress.time, size)
        mean = [(p - q) / ops.cast(time, p.dtype) for p, q in zip(point, end, strict=True)]
        nan_unless_moved = scalars.where(has_moved, zero, zero + math.nan)
        estimate = add_to_smallest(mean, nan_unless_moved)
        return Step(time, estimate, progress.loss, gradients, choices, progress.tries)

    def _attempt(self, evaluate, like, progress, point, first):
        """Tries a step; returns the progress, and point and gradients after it."""
        control = self._control

        def evaluate_packed(packed):
            loss, gradients = evaluate(vectors.unpacked(packed, like))
            return loss, vectors.packed(gradients)

        whole = smaller(progress.next_size, control.max_step)
        size, lands = self._shortened(whole, progress)
        tried = run_stages(
            self._tableau, evaluate_packed, point, {0: first}, size, None, with_error=True
        )
        loss, last = tried.last
        norm, loss = scalars.known(
            control.error_of(tried, size, point), ops.cast(loss, control.dtype)
        )
        accepted, next_size = control.judged(
            norm, size, progress.error, rejected_before=progress.rejections > 0
        )
        if self._flow_time is not None:
            # A step that was shortened to land says nothing against its full size.
            next_size = scalars.where(
                accepted & (size < whole), larger(next_size, whole), next_size
            )
        none, one = scalars.number(0, "int32"), scalars.number(1, "int32")
        # Kahan summation.
        added = size + progress.left_over
        time = progress.time + added
        left_over = added - (time - progress.time)

        def if_accepted(new, old):
            return scalars.where(accepted, new, old)

        if lands is not None:
            time = scalars.where(lands, scalars.number(self._flow_time, control.dtype), time)
            left_over = scalars.where(lands, 0 * left_over, left_over)
        progress = Progress(
            steps=progress.steps + if_accepted(one, none),
            tries=progress.tries + 1,
            rejections=if_accepted(none, progress.rejections + 1),
            next_size=next_size,
            size=if_accepted(size, progress.size),
            error=if_accepted(norm, progress.error),
            time=if_accepted(time, progress.time),
            left_over=if_accepted(left_over, progress.left_over),
            loss=if_accepted(loss, progress.loss),
        )
        point = [if_accepted(new, old) for new, old in zip(tried.new_point, point, strict=True)]
        first = [if_accepted(new, old) for new, old in zip(last, first, strict=True)]
        return progress, point, first

    def _shortened(self, size, progress):
        """Returns the size, so that the step ends at the flow time at the latest; and whether it
        ends there, or `None` if there is no flow time."""
        if self._flow_time is None:
            return size, None
        rest = (self._flow_time - progress.time) - progress.left_over
        lands = rest - size <= self._slack  # to within rounding: no step for what that has left
        return scalars.where(lands, rest, size), lands

    def _is_short(self, time):
        """Whether the time is before the flow time."""
        return True if self._flow_time is None else time < self._flow_time

    def _note(self, progress, sound):
        too_large = sound & (progress.rejections > self._control.max_rejections)
        self._control.note(
            size=progress.size,
            next_size=progress.next_size,
            error=progress.error,
            rejected=progress.tries - progress.steps,
            too_large=too_large,
            time=progress.time + progress.left_over,
        )
        self.counters["accepted_steps"].assign_add(progress.steps)
        if self._flow_time is not None:
            unfinished = sound & self._is_short(progress.time)
            self.counters["unfinished_steps"].assign_add(ops.cast(unfinished, "int32"))
