"""What the arguments of `Accumulate` may be, and what is wrong with those that may not."""

from numbers import Integral

from keras_cool.optimizer_roles import Accumulator, GradientEstimator
from keras_cool.optimizers.inner_optimizer import as_keras_optimizer


def checked_inner(optimizer):
    """Returns the Keras optimizer that the first argument stands for, or raises a `ValueError`."""
    if isinstance(optimizer, GradientEstimator):
        name = type(optimizer).__name__
        raise ValueError(
            f"Accumulate was given {name}, which needs the gradient of the whole batch at several "
            "points; the batches of a window are gone by the time the second point is known. "
            f"Let the model take the batch apart: model.compile({name}(...), microbatch_size=16), "
            "with the large batch in `fit`."
        )
    if isinstance(optimizer, Accumulator):
        raise ValueError(
            "Accumulate was given Accumulate. Give it an ordinary optimizer, and the product of "
            "both numbers as `steps`."
        )
    return as_keras_optimizer(optimizer, "Accumulate")


def checked_steps(steps):
    """Returns the number of batches of a window, an integer."""
    if isinstance(steps, bool) or not isinstance(steps, Integral):
        raise TypeError(
            "`steps` is the number of batches that make up an update: a positive integer, or a "
            f"function of the number of updates. It was given {steps!r} of type "
            f"{type(steps).__name__}. For example: Accumulate('adam', steps=4)."
        )
    if steps < 1:
        raise ValueError(
            "`steps` is the number of batches that make up an update, at least 1. It was given "
            f"{steps}. For example: Accumulate('adam', steps=4)."
        )
    return int(steps)


def check_option(name, value, options):
    """Raises a `ValueError` if `value` is none of the `options`."""
    if value not in options:
        raise ValueError(f"`{name}` is one of {', '.join(map(repr, options))}. Given: {value!r}.")
