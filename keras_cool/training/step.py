"""The default step: a gradient, or an estimate from several, handed to the optimizer."""

import keras
from keras import ops

from keras_cool import backend
from keras_cool.backend.row_sparse import RowSparse
from keras_cool.keras_private import OverlayScope
from keras_cool.optimizer_roles import GradientEstimator, accumulators, check_built_on


class SingleGradient(GradientEstimator):
    """The method of a plain optimizer: one gradient, at the present point.

    It counts the steps that are skipped, since their gradient is not finite, in a variable that is
    no part of the model's weights.
    """

    def __init__(self):
        self.has_counted = False  # not in a step of one's own
        self._skipped_steps = keras.Variable(
            0,
            dtype="int32",
            trainable=False,
            aggregation="only_first_replica",
            name="skipped_steps",
        )

    @property
    def variables(self):
        """The state."""
        return [self._skipped_steps]

    def estimate_gradient(self, evaluate, point):
        return evaluate(point, by_rows=True)[1]

    def count(self, gradient_evaluations, finite):
        self.has_counted = True
        self._skipped_steps.assign_add(ops.cast(ops.logical_not(finite), "int32"))

    def step_logs(self):
        return {"skipped_steps": self._skipped_steps.value + 0}  # + 0: a copy


def take_step(model, evaluation, method):
    """Takes the step of a method; returns the logs.

    A gradient estimate that is not finite is not applied, and the step counted as skipped.

    Args:
        model: The Keras model, with the mixin.
        evaluation: The `Evaluation` of its loss on the batch.
        method: The `GradientEstimator`, or `None`: the optimizer is handed the gradient of the
            batch as Keras' own step would, and looks at it itself.
    """
    variables = evaluation.variables
    point = [v.value for v in variables]
    if method is None:
        _, gradients = evaluation.of_replica(point)
        gradients = backend.gradients.gradients_of_keras_step(gradients, variables)
        assign(_updates_that_hold(model, evaluation.updates))
        if variables:
            model.step_hooks.events.weights.note(evaluation, model.optimizer)
            model.apply_gradients(gradients, variables)
        return evaluation.logs

    check_built_on(model.optimizer, variables)
    with OverlayScope() as scope:
        estimate = _checked_estimate(method, method.estimate_gradient(evaluation, point), point)
        estimate = [e.value if isinstance(e, keras.Variable) else e for e in estimate]
    finite = backend.updates.all_finite(
        [e.values if isinstance(e, RowSparse) else e for e in estimate]
    )
    observed = estimate if evaluation.observed is None else evaluation.observed
    model.step_hooks.events.gradients(observed, of_all_replicas=True)
    replicas = backend.updates.number_of_replicas()
    if replicas > 1:  # whose gradients `apply` is going to add up
        estimate = [g / replicas for g in estimate]
    gradients = [
        None if missing else g for g, missing in zip(estimate, evaluation.missing, strict=True)
    ]
    gradients = backend.gradients.gradients_of_keras_step(gradients, variables)

    # Seeds, metrics and what the method keeps go on in any case; weights of layers (moving
    # statistics), the rest of the method's state and the step itself hold only if the estimate is
    # finite.
    weights = {id(v) for v in model.weights}
    kept = {id(v) for v in method.kept_variables}
    assign((v, value) for v, value in evaluation.updates if id(v) not in weights)
    assign((v, value) for v, value in scope.updates if id(v) in kept)
    held = [(v, value) for v, value in evaluation.updates if id(v) in weights]
    held += [(v, value) for v, value in scope.updates if id(v) not in kept]
    held_variables, held_values = [v for v, _ in held], [value for _, value in held]
    skips_itself = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)

    def apply(gradients):
        method.apply_estimate(lambda: model._apply(model.optimizer, gradients, variables))
        if evaluation.end is not None:
            assign(
                (v, _constrained(v, end)) for v, end in zip(variables, evaluation.end, strict=True)
            )

    def update(values, gradients):
        assign(zip(held_variables, values, strict=True))
        if not skips_itself:
            apply(gradients)

    backend.updates.apply_if(finite, update, held_values, gradients)
    if skips_itself:
        apply(gradients)  # it looks for itself, and lowers its scale
    method.count(evaluation.count, finite)
    return evaluation.logs


def assign(updates):
    """Assigns each variable its value: `updates` are pairs of the two."""
    for variable, value in updates:
        variable.assign(value)


def _constrained(variable, value):
    """What a Keras optimizer makes of a new value of a variable."""
    constraint = getattr(variable, "constraint", None)
    return value if constraint is None else constraint(value)


def check_no_overwriting(variables):
    """Refuses variables that are overwritten with their gradients: those cannot be added up."""
    overwritten = [v.path for v in variables if getattr(v, "overwrite_with_gradient", False)]
    if overwritten:
        raise ValueError(
            f"The variables {overwritten} are overwritten with their gradients (float8 scales), "
            "which cannot be added up over micro-batches or points. Compile the model without "
            "`microbatch_size` and with a plain Keras optimizer."
        )


def _checked_estimate(method, estimate, point):
    """Returns the gradients that `estimate_gradient` returned, if they are some."""
    of_point = isinstance(estimate, list | tuple) and len(estimate) == len(point)
    if not of_point or any(isinstance(e, list | tuple) for e in estimate):
        given = f"{len(estimate)} entries" if isinstance(estimate, list | tuple) else repr(estimate)
        raise ValueError(
            f"`estimate_gradient` of {type(method).__name__} has to return a list of "
            f"{len(point)} gradients, one for each tensor of `point`. It returned {given}. "
            "`evaluate(point)` gives a pair: loss, gradients = evaluate(point)."
        )
    return estimate


def _updates_that_hold(model, updates):
    """Leaves out the state of layers that a bad batch has spoilt, where an optimizer accumulates
    and so goes on."""
    if model._is_plain or not accumulators(model.optimizer):
        return updates
    weights = {id(v) for v in model.weights}
    return [(v, _if_finite(v, value) if id(v) in weights else value) for v, value in updates]


def _if_finite(variable, value):
    """Returns the new value of a layer's state, or the old one if the new one is not finite."""
    if "float" not in keras.backend.standardize_dtype(variable.dtype):
        return value
    return ops.where(ops.all(ops.isfinite(value)), value, variable.value)
