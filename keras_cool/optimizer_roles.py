"""What an optimizer is to a training step, as classes, and which optimizers a model trains with."""

from typing import Any, NamedTuple

import keras

from keras_cool.keras_private import all_layers, holds_several, is_trained_by


class GradientEstimator:
    """The role of an optimizer that needs gradients at several points to take one step.

    A step calls the methods from `estimate_gradient` to `count`, in their order.
    """

    def estimate_gradient(self, evaluate, point):
        """Returns the gradient to apply: a list of tensors shaped like `point`."""
        raise NotImplementedError

    @property
    def kept_variables(self):
        """The variables whose assignments in `estimate_gradient` hold in a skipped step too."""
        return []

    def apply_estimate(self, apply):
        """Hands the estimate to the optimizer.

        Args:
            apply: A function without arguments that does it.
        """
        apply()

    def count(self, gradient_evaluations, finite):
        """Counts the gradient evaluations of a step, and the step as skipped if not `finite`."""

    def step_logs(self):
        """Returns what a step adds to the logs: a dictionary of names and scalar tensors."""
        return {}

    @property
    def controls_step_size(self):
        """Whether the method chooses its step sizes itself."""
        return False

    @property
    def has_learning_rate(self):
        """Whether it has a learning rate, which callbacks may set."""
        return True

    @property
    def embedded_error(self):
        """The error of the last step, where 1 is the tolerance: a scalar tensor, or `None`."""
        return None

    def end_epoch(self):
        """Looks at what the method did in an epoch, at its end; warns where it is of little use.

        Returns:
            Why training is to stop, a sentence, or `None`.
        """


class Batch(NamedTuple):
    """What an `Accumulator` has to know of the batch whose gradients it is given.

    Attributes:
        weight: Number or scalar tensor, how much its gradients count.
        adds_up: Boolean. If `True` gradients are added up with these weights, and not divided by
            the sum of them.
        samples: Number or scalar tensor, the samples of it.
        variables: List of the variables that the gradients are for, also where there is none; or
            `None`: those that `apply` is given.
    """

    weight: Any = 1.0
    adds_up: bool = False
    samples: Any = 1.0
    variables: list | None = None


class Accumulator:
    """The role of an optimizer that makes one update of several batches, a window.

    A step calls `begin_batch`, and `apply` within `counting`; `fit` sets `epoch_is_open` and calls
    `finish_window`.
    """

    epoch_is_open = False

    def begin_batch(self):
        """Tells that the next call of `apply` belongs to another batch than the last one."""
        raise NotImplementedError

    def counting(self, batch):
        """Returns a context within which `apply` is given the gradients of a batch.

        Args:
            batch: A `Batch`.
        """
        raise NotImplementedError

    def share(self):
        """Returns a batch's share of the batches of a window, a scalar tensor."""
        raise NotImplementedError

    def finish_window(self):
        """Ends an epoch: deals with a window that is not full."""
        raise NotImplementedError

    def step_logs(self):
        """Returns what a step adds to the logs: a dictionary of names and scalar tensors."""
        return {}


class RowWise:
    """The role of an optimizer that can update some rows of a table and leave the others alone."""

    def update_rows(self, gradient, rows, slots, learning_rate):
        """Returns `(rows, slots)` after a step.

        Args:
            gradient: Tensor, the gradient by these rows, clipped.
            rows: Tensor of the same shape, the rows of the table.
            slots: List of such tensors, the rows of the optimizer's variables for that table.
            learning_rate: Scalar tensor.
        """
        raise NotImplementedError


def check_built_on(optimizer, variables):
    """Raises a `ValueError` if there are variables that an optimizer, or one inside it, was not
    built on and has no state for."""
    for inner in chain(unwrap(optimizer)):
        unknown = [v.path for v in variables if inner.built and not is_trained_by(inner, v)]
        if unknown:
            name = type(inner).__name__
            raise ValueError(
                f"{name} was built on other variables than {unknown}, and has no state for "
                "them: it has trained another model, or `trainable` was changed since. Make a "
                f"new {name}, and compile the model with it; or build it on all variables that "
                "it will ever train, before training: optimizer.build(variables)."
            )


def unwrap(optimizer):
    """Returns the optimizer inside a `LossScaleOptimizer`, or the optimizer itself."""
    is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return optimizer.inner_optimizer if is_scaled else optimizer


def chain(optimizer):
    """Lists an optimizer and those inside it, from the outermost to the one that applies."""
    found = [optimizer]
    while hasattr(found[-1], "inner_optimizer"):  # of Keras' and of ours
        found.append(found[-1].inner_optimizer)
    return found


def gradient_estimator(optimizer):
    """Returns the `GradientEstimator` that `optimizer` is or wraps, or `None`."""
    optimizer = unwrap(optimizer)
    return optimizer if isinstance(optimizer, GradientEstimator) else None


def has_learning_rate(optimizer):
    """Whether an optimizer has a learning rate, which callbacks may set."""
    method = gradient_estimator(optimizer)
    return method is None or method.has_learning_rate


def accumulator(optimizer):
    """Returns the one `Accumulator` that `optimizer` is or wraps, or `None`."""
    optimizer = unwrap(optimizer)
    return optimizer if isinstance(optimizer, Accumulator) else None


def accumulators(*optimizers):
    """Lists each `Accumulator` that the optimizers are or hold, once: inside a `LossScaleOptimizer`
    and inside a `MultiOptimizer` too."""
    found = []
    for optimizer in map(unwrap, optimizers):
        if holds_several(optimizer):
            found += accumulators(*optimizer.optimizers)
        elif isinstance(optimizer, Accumulator):
            found.append(optimizer)
    return list({id(o): o for o in found}.values())


def may_accumulate(*optimizers):
    """Whether one of the optimizers is or holds an `Accumulator`, or may turn out to: what a
    `MultiOptimizer` holds is known once it was built."""
    unknown = any(holds_several(o) and not o.built for o in map(unwrap, optimizers))
    return unknown or bool(accumulators(*optimizers))


def with_learning_rates(optimizer):
    """Lists the optimizers that have the learning rates of `optimizer`: itself, or those of the
    `MultiOptimizer` that it is or holds."""
    inner = chain(optimizer)[-1]
    return list(inner.optimizers) if holds_several(inner) else [optimizer]


def optimizers_of(model):
    """Lists the optimizers of a model, each once: its own first, from `compile`, then all that are
    attributes of it, of its layers or of models inside it, alone or in lists, tuples, dictionaries
    and sets."""
    own = getattr(model, "optimizer", None)
    found = {} if own is None else {id(own): own}
    for layer in [model, *all_layers(model)]:
        # A step on PyTorch looks each time: most of what a layer has, every layer has.
        for name, value in vars(layer).items():
            if name not in _OF_EVERY_LAYER and isinstance(value, _MAY_HOLD):
                _collect(value, found)
    return list(found.values())


_MAY_HOLD = (keras.optimizers.Optimizer, dict, list, tuple, set)
_OF_EVERY_LAYER = frozenset(vars(keras.Layer()))


def _collect(value, found):
    if isinstance(value, keras.optimizers.Optimizer):
        found.setdefault(id(value), value)
        return
    for entry in value.values() if isinstance(value, dict) else value:
        if isinstance(entry, _MAY_HOLD):
            _collect(entry, found)
