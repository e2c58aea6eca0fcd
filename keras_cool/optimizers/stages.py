"""The stages of a Runge-Kutta step: gradients at trial points, and their weighted sums."""

from keras_cool.optimizers.weighted_sum import WeightedSum, moved, not_finite_mark


def stages_needed(tableau, with_error):
    """Gives the indices of the stages that the weights rest on, in order; the first is always in.

    Args:
        tableau: A `Tableau`.
        with_error: Boolean, whether the error estimate is wanted as well.
    """
    needed = {i for weights in _all_weights(tableau, with_error) for i, w in enumerate(weights) if w}
    for i in reversed(range(tableau.stages)):
        if i in needed:
            needed |= {j for j, coefficient in enumerate(tableau.a[i]) if coefficient}
    return sorted(needed | {0})


def run_stages(tableau, evaluate, point, first, step, preconditioner, with_error):
    r"""Computes the stages of one step and their sums.

    A stage's gradient is let go as soon as no later trial point needs it.

    Args:
        tableau: A `Tableau`.
        evaluate: A function: `evaluate(point)` gives `(loss, gradients)`.
        point: List of tensors.
        first: List of tensors, the gradients at the point, the first stage.
        step: Scalar tensor, the step size.
        preconditioner: List of tensors shaped like the point, the diagonal, or `None`.
        with_error: Boolean, whether to compute the error estimate and the new point.

    Returns:
        `(estimate, error, new_point, mark)`: the sums with the weights and with the error weights,
        the point after the step, lists of tensors; and a scalar that is not a number where a stage
        was not finite that none of the sums shows, or `None` where there is no such stage. Error
        and new point are `None` if they are not asked for.
    """
    needed = stages_needed(tableau, with_error)
    last_use = {j: max((i for i in needed if i > j and tableau.a[i][j]), default=j) for j in needed}
    all_weights = _all_weights(tableau, with_error)
    sums = [WeightedSum() for _ in all_weights]
    gradients, mark, new_point = {}, None, None

    def let_go(stage):
        nonlocal mark
        tensors = gradients.pop(stage)
        for total, weights in zip(sums, all_weights, strict=True):
            total.add(weights[stage], tensors)
        if not any(weights[stage] for weights in all_weights):
            mark = not_finite_mark(tensors) + (0.0 if mark is None else mark)

    for i in needed:
        if i == 0:
            gradients[i] = first
            continue
        if with_error and i == tableau.stages - 1 and tableau.first_same_as_last:
            # Its trial point is the point after the step: one sum serves both.
            for j in sorted(gradients):
                let_go(j)
            trial = new_point = moved(point, step, sums[0].tensors(), preconditioner)
        else:
            trial = WeightedSum()
            for j, coefficient in enumerate(tableau.a[i]):
                if coefficient:
                    trial.add(coefficient, gradients[j])
            trial = trial.moved_from(point, step, preconditioner)
            for j in sorted(gradients):
                if last_use[j] <= i:
                    let_go(j)
        gradients[i] = evaluate(trial)[1]
        del trial
    for j in sorted(gradients):
        let_go(j)
    estimate = sums[0].tensors()
    if not with_error:
        return estimate, None, None, mark
    if new_point is None:
        new_point = moved(point, step, estimate, preconditioner)
    return estimate, sums[1].tensors(), new_point, 0.0 if mark is None else mark


def _all_weights(tableau, with_error):
    return [tableau.b, tableau.error_weights] if with_error else [tableau.b]
