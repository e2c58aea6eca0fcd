"""The default step: one gradient, or an estimate from several, handed to the optimizer."""

import contextlib

import keras
from keras import ops

from keras_cool import backend
from keras_cool.keras_private import OverlayScope
from keras_cool.optimizers_of import accumulating_optimizers
from keras_cool.training.batch_weights import note


def take_plain_step(model, evaluation):
    """Applies the gradient at the present point; returns the logs.

    Args:
        model: The Keras model, with the mixin.
        evaluation: The `Evaluation` of its loss on the batch.
    """
    variables = evaluation.variables
    _, gradients = evaluation.raw([v.value for v in variables])
    gradients = backend.gradients.gradients_of_keras_step(gradients, variables)
    updates = evaluation.updates
    if accumulating_optimizers(model.optimizer) and not model._is_plain:
        weights = {id(v) for v in model.weights}
        updates = [(v, _if_finite(v, value) if id(v) in weights else value) for v, value in updates]
    assign(updates)
    if variables:
        note(evaluation, model.optimizer)
        model.apply_gradients(gradients, variables)
    return evaluation.logs


def take_estimated_step(model, evaluation, counter):
    """Applies a gradient estimate, unless it is not finite; returns the logs.

    Args:
        model: The Keras model, with the mixin.
        evaluation: The `Evaluation` of its loss on the batch.
        counter: What counts the steps: the multi-gradient optimizer, or the model's `Microbatches`
            where the estimate is the gradient itself.
    """
    method = multi_gradient_method(model.optimizer)
    variables = evaluation.variables
    if method is not None and method.built:
        method.check_variables(variables)
    point = [v.value for v in variables]
    with OverlayScope() as scope:
        if method is None:
            _, estimate = evaluation(point)
        else:
            estimate = _checked_estimate(method, method.estimate_gradient(evaluation, point), point)
        estimate = [e.value if isinstance(e, keras.Variable) else e for e in estimate]
    finite = backend.updates.all_finite(estimate)
    model.show_gradients(estimate, variables, of_all_replicas=True)
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
    kept = set() if method is None else {id(v) for v in method.kept_variables}
    assign((v, value) for v, value in evaluation.updates if id(v) not in weights)
    assign((v, value) for v, value in scope.updates if id(v) in kept)
    held = [(v, value) for v, value in evaluation.updates if id(v) in weights]
    held += [(v, value) for v, value in scope.updates if id(v) not in kept]
    held_variables, held_values = [v for v, _ in held], [value for _, value in held]
    skips_itself = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)

    def apply(gradients):
        accepting = contextlib.nullcontext() if method is None else method.accepting_estimates()
        with accepting:
            model.update_by(model.optimizer, gradients, variables)

    def update(values, gradients):
        assign(zip(held_variables, values, strict=True))
        if not skips_itself:
            apply(gradients)

    backend.updates.apply_if(finite, update, held_values, gradients)
    if skips_itself:
        apply(gradients)  # it looks for itself, and lowers its scale
    counter.count(evaluation.count, finite)
    return evaluation.logs


def _checked_estimate(method, estimate, point):
    """The gradients that `estimate_gradient` returned, if they are some."""
    of_point = isinstance(estimate, list | tuple) and len(estimate) == len(point)
    if not of_point or any(isinstance(e, list | tuple) for e in estimate):
        given = f"{len(estimate)} entries" if isinstance(estimate, list | tuple) else repr(estimate)
        raise ValueError(
            f"`estimate_gradient` of {type(method).__name__} has to return a list of "
            f"{len(point)} gradients, one for each tensor of `point`. It returned {given}. "
            "`evaluate(point)` gives a pair: loss, gradients = evaluate(point)."
        )
    return estimate


def multi_gradient_method(optimizer):
    """The multi-gradient optimizer that `optimizer` is or wraps, or `None`."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer if hasattr(optimizer, "estimate_gradient") else None


def assign(updates):
    """Assigns each variable its value: `updates` are pairs of the two."""
    for variable, value in updates:
        variable.assign(value)


def check_no_overwriting(variables):
    """Refuses variables that are overwritten with their gradients: those cannot be added up."""
    overwritten = [v.path for v in variables if getattr(v, "overwrite_with_gradient", False)]
    if overwritten:
        raise ValueError(
            f"The variables {overwritten} are overwritten with their gradients (float8 scales), "
            "which cannot be added up over micro-batches or points. Compile the model without "
            "`microbatch_size` and with a plain Keras optimizer."
        )


def _if_finite(variable, value):
    """The new value of a layer's state, or the old one if a bad batch has spoilt the new one."""
    if "float" not in keras.backend.standardize_dtype(variable.dtype):
        return value
    return ops.where(ops.all(ops.isfinite(value)), value, variable.value)
