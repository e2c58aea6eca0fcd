"""The stages of a Runge-Kutta step: gradients at trial points, and their weighted sums."""

from typing import Any, NamedTuple

from keras_cool.optimizers.weighted_sum import WeightedSum, moved, zero_if_finite


class Stages(NamedTuple):
    """The results of the stages of a step.

    Without the error estimate, `error`, `new_point` and `last` are `None`. `last` is `None` too if
    the last stage is not at the new point.
    """

    estimate: list  # the sum with the weights, a list of tensors
    error: list | None  # the sum with the error weights
    new_point: list | None  # the point after the step
    last: tuple[Any, list] | None  # loss and gradients at the new point
    zero_or_nan: Any  # a scalar: NaN if a stage that is in no sum was not finite, else 0


def stages_needed(tableau, with_error):
    """Returns the indices of the stages that the weights depend on, in order, always with 0.

    Args:
        tableau: A `Tableau`.
        with_error: Boolean, whether the error estimate is wanted as well.
    """
    needed = {
        i for weights in _all_weights(tableau, with_error) for i, w in enumerate(weights) if w
    }
    for i in reversed(range(tableau.stages)):
        if i in needed:
            needed |= {j for j, coefficient in enumerate(tableau.a[i]) if coefficient}
    return sorted(needed | {0})


def run_stages(tableau, evaluate, point, gradients, step, preconditioner, with_error):
    r"""Computes the stages of one step and their sums.

    A stage's gradient is released as soon as no later trial point needs it.

    Args:
        tableau: A `Tableau`.
        evaluate: A function: `evaluate(point)` returns `(loss, gradients)`.
        point: List of tensors.
        gradients: Dictionary with the gradients at the point, the first stage, under the key 0. It
            is emptied, so that they are not held longer than needed.
        step: Scalar tensor, the step size.
        preconditioner: List of tensors shaped like the point, the diagonal, or `None`.
        with_error: Boolean, whether to compute the error estimate and the new point.

    Returns:
        `Stages`.
    """
    needed = stages_needed(tableau, with_error)
    last_use = {j: max((i for i in needed if i > j and tableau.a[i][j]), default=j) for j in needed}
    all_weights = _all_weights(tableau, with_error)
    sums = [WeightedSum() for _ in all_weights]
    zero_or_nan, new_point, last = 0.0, None, None

    def release(stage):
        nonlocal zero_or_nan
        tensors = gradients.pop(stage)
        for total, weights in zip(sums, all_weights, strict=True):
            total.add(weights[stage], tensors)
        if not any(weights[stage] for weights in all_weights):
            zero_or_nan += zero_if_finite(tensors)

    for i in needed[1:]:
        at_new_point = with_error and i == tableau.stages - 1 and tableau.first_same_as_last
        if at_new_point:
            # Its trial point is the point after the step, so one sum is enough for both.
            for j in sorted(gradients):
                release(j)
            trial = new_point = moved(point, step, sums[0].tensors(), preconditioner)
        else:
            trial = WeightedSum()
            for j, coefficient in enumerate(tableau.a[i]):
                if coefficient:
                    trial.add(coefficient, gradients[j])
            trial = trial.moved_from(point, step, preconditioner)
            for j in sorted(gradients):
                if last_use[j] <= i:
                    release(j)
        loss, gradients[i] = evaluate(trial)
        del trial
        if at_new_point:
            last = loss, gradients[i]
    for j in sorted(gradients):
        release(j)
    estimate = sums[0].tensors()
    if not with_error:
        return Stages(estimate, None, None, None, zero_or_nan)
    if new_point is None:
        new_point = moved(point, step, estimate, preconditioner)
    return Stages(estimate, sums[1].tensors(), new_point, last, zero_or_nan)


def _all_weights(tableau, with_error):
    return [tableau.b, tableau.error_weights] if with_error else [tableau.b]
