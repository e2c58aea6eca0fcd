"""How much a batch counts where an optimizer accumulates: told from the losses to the optimizer.

The gradients that a step computes reach an optimizer by way of the step's own code, which may add
them up, clip them or drop some. What their loss is divided by is noted here meanwhile.
"""

import contextlib
import threading
import warnings

from keras_cool import backend
from keras_cool.optimizers_of import accumulating_optimizers


class _Notes(threading.local):
    """Those of the step that runs. Replicas of TensorFlow are threads."""

    samples = 1.0
    by_variable: dict | None = None
    trace: object = None
    weighs = True


_notes = _Notes()


@contextlib.contextmanager
def step_of(samples, optimizers):
    """The context of a step on one batch, which counts by its samples where nothing else is noted.

    Args:
        samples: Integer or scalar tensor.
        optimizers: List of the optimizers that may take part, or `None`: all batches count alike,
            as on a model without the mixin.
    """
    outer = _notes.samples, _notes.by_variable, _notes.trace, _notes.weighs
    _notes.samples, _notes.by_variable, _notes.trace = samples, {}, backend.updates.present_trace()
    _notes.weighs = optimizers is not None
    try:
        with contextlib.ExitStack() as stack:
            for optimizer in accumulating_optimizers(*(optimizers or [])):
                optimizer.begin_batch()
                stack.enter_context(optimizer.counting(samples, samples=samples))
            yield
    finally:
        _notes.samples, _notes.by_variable, _notes.trace, _notes.weighs = outer


def note(evaluation, optimizer):
    """Notes what the loss of an `Evaluation` is divided by, for the variables of its gradients."""
    accumulates = _weighing(optimizer)
    if not accumulates or _notes.by_variable is None:
        return
    if _notes.trace != backend.updates.present_trace():
        return  # what is computed inside a loop stays there: such gradients count by the samples
    if evaluation.has_several_divisors:
        warnings.warn(
            "The model has several losses, one of them with a mask or with weights that it is "
            "divided by. Accumulate weights a batch as a whole, by the first loss: the others are "
            "exact only if they are divided by the same. One large batch with "
            "compile(microbatch_size=...) is exact for all of them.",
            stacklevel=2,
        )
    if evaluation.is_a_sum:
        weight = accumulates[0].share()
    else:
        weight = _notes.samples if evaluation.divisor is None else evaluation.divisor
    for variable in evaluation.variables:
        _notes.by_variable.setdefault(id(variable), (weight, evaluation.is_a_sum))


@contextlib.contextmanager
def counting(optimizer, variables):
    """Within it the gradients that `optimizer` is given for `variables` count as noted."""
    accumulates = _weighing(optimizer)
    if not accumulates:
        yield
        return
    noted = _notes.by_variable or {}
    weights = [noted[id(v)] for v in variables if id(v) in noted]
    weight, adds_up = weights[0] if weights else (_notes.samples, False)
    with contextlib.ExitStack() as stack:
        for accumulate in accumulates:
            batch = accumulate.counting(weight, adds_up, _notes.samples, list(variables))
            stack.enter_context(batch)
        yield


def forget(variables):
    """Forgets what was noted for variables, whose gradients an optimizer has been given."""
    for variable in variables:
        (_notes.by_variable or {}).pop(id(variable), None)


def window_share(optimizer):
    """A batch's share of the batches that an update of `optimizer` is made of, a number or a
    scalar tensor."""
    accumulates = _weighing(optimizer)
    return accumulates[0].share() if accumulates else 1.0


def _weighing(optimizer):
    return accumulating_optimizers(optimizer) if _notes.weighs else []
