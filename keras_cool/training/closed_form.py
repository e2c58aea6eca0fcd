"""Gradients that a model knows in closed form: `closed_form_gradient` and `check_gradient`."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_cool.backend.row_sparse import RowSparse
from keras_cool.gradients import densify


def closed_form_of(model):
    """Returns the function of a batch that gives loss and gradients in closed form, checked, or
    `None`: the model does not say them."""
    method = getattr(model, "closed_form_gradient", None)
    if method is None:
        return None

    def closed_form(x, y, sample_weight):
        loss, gradients = _checked(method(x, y, sample_weight), model.trainable_variables)
        if model.losses:
            raise ValueError(
                f"`closed_form_gradient` of {type(model).__name__} gives the whole loss, and the "
                "model has losses besides, from `add_loss` or from regularisers "
                f"({[v.path for v in model.trainable_variables if _is_regularised(v)]}), which "
                "would be left out. Add their value and their gradient inside "
                "`closed_form_gradient`, and take the regularisers out of the layers."
            )
        return loss, gradients

    return closed_form


def check_gradient(model, batch, tolerance=None):
    r"""Compares the gradient that a model gives in closed form with automatic differentiation.

    A model with the mixin may say its gradient itself, by a method

        def closed_form_gradient(self, x, y, sample_weight):
            ...
            return loss, gradients

    Training then uses it in place of automatic differentiation. The loss is the mean over the
    samples, as Keras' losses are, and `gradients` has one entry for each of
    `self.trainable_variables`: a tensor of its shape, a `keras_cool.RowSparse`, or `None` where the
    loss does not depend on it. Nothing checks it during training: call `check_gradient` once, with
    a batch that has sample weights if the training has some.

    The entries of a variable agree if no difference is larger than `tolerance` times the largest
    entry of its gradient (or a thousandth of the largest of all gradients). No variable changes.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> class Line(kc.Model):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.slope = self.add_weight(shape=(1,), name="slope")
    ...
    ...     def call(self, x):
    ...         return self.slope * x
    ...
    ...     def closed_form_gradient(self, x, y, sample_weight):
    ...         error = self.slope * x - y
    ...         loss = keras.ops.mean(error**2)
    ...         return loss, [keras.ops.mean(2 * error * x, axis=0)]
    >>> model = Line()
    >>> model.compile("sgd", loss="mse")
    >>> batch = keras.ops.ones((4, 1)), keras.ops.zeros((4, 1))
    >>> kc.check_gradient(model, batch) < 1e-6
    True

    Args:
        model: A compiled model with the mixin and a `closed_form_gradient`. Automatic
            differentiation uses its `call` and the loss of `compile`, or its `compute_loss`.
        batch: A batch as `train_on_batch` takes it: `x`, `(x, y)` or `(x, y, sample_weight)`.
        tolerance: Float, or `None`: 1e-8 if all trainable variables are float64, 5e-2 if some have
            16 bits, and 1e-3 otherwise.

    Returns:
        The largest relative difference, a float.

    Raises:
        ValueError: If the losses or the gradients differ, with the variable and the entry at which
            they do most; or if the model has no `closed_form_gradient`, or does not return what is
            described above.
    """
    has_method = getattr(model, "closed_form_gradient", None) is not None
    if not has_method or not hasattr(model, "multi_gradient_step"):
        raise ValueError(
            "`check_gradient` is for a model with the mixin that has a method "
            f"closed_form_gradient(self, x, y, sample_weight). {type(model).__name__} has "
            + ("not the mixin: keras_cool.inject(model)." if has_method else "no such method.")
        )
    autodiff, closed = (
        _numbers(model._gradient_of(batch, by), model.trainable_variables)
        for by in (None, closed_form_of(model))
    )
    names = ["the loss", *(v.path for v in model.trainable_variables)]
    tolerance = _tolerance(model.trainable_variables) if tolerance is None else tolerance
    floor = 1e-3 * max(np.abs(g).max(initial=0.0) for g in autodiff[1:])
    found = [
        _difference(name, a, c, 0.0 if i == 0 else floor)
        for i, (name, a, c) in enumerate(zip(names, autodiff, closed, strict=True))
    ]
    wrong = [d for d in found if not d.relative <= tolerance]
    if wrong:
        raise ValueError(
            f"`closed_form_gradient` of {type(model).__name__} differs from automatic "
            "differentiation by more than the tolerance, "
            f"{tolerance:g} of the largest entry:\n" + "\n".join(d.sentence for d in wrong)
        )
    return max(d.relative for d in found)


class _Difference(NamedTuple):
    """How much the two differ in one tensor, and a sentence that says where."""

    relative: float
    sentence: str


def _difference(name, autodiff, closed, floor):
    scale = max(np.abs(autodiff).max(initial=0.0), floor) or 1.0
    differences = np.abs(autodiff - closed)
    differences = np.where(np.isnan(differences), np.inf, differences)
    place = np.unravel_index(differences.argmax(), differences.shape) if differences.size else ()
    relative = float(differences.max(initial=0.0) / scale)
    at = f" at {tuple(int(i) for i in place)}" if place else ""
    values = f"{closed[place]:g} in closed form, {autodiff[place]:g} by automatic differentiation"
    return _Difference(relative, f"- {name}{at}: {values}" if differences.size else "")


def _numbers(loss_and_gradients, variables):
    loss, gradients = loss_and_gradients
    tensors = [densify(g, v.value) for g, v in zip(gradients, variables, strict=True)]
    return [ops.convert_to_numpy(t).astype("float64") for t in [loss, *tensors]]


def _tolerance(variables):
    dtypes = {keras.backend.standardize_dtype(v.dtype) for v in variables}
    if dtypes & {"float16", "bfloat16"}:
        return 5e-2
    return 1e-8 if dtypes == {"float64"} else 1e-3


def _checked(result, variables):
    """Returns `(loss, gradients)` as a `closed_form_gradient` gave them, or raises an error."""
    is_a_pair = isinstance(result, tuple) and len(result) == 2
    if not is_a_pair or not isinstance(result[1], list | tuple):
        raise ValueError(
            "`closed_form_gradient` returns a pair: the loss, and a list with one gradient for "
            f"each of `self.trainable_variables`. It returned {result!r}."
        )
    loss, gradients = result
    if len(gradients) != len(variables):
        raise ValueError(
            f"`closed_form_gradient` returned {len(gradients)} gradients for {len(variables)} "
            f"trainable variables: {[v.path for v in variables]}. Return one for each of them, in "
            "this order, and none for those that are frozen: "
            "[gradient for variable, gradient in pairs if variable.trainable]."
        )
    loss = ops.convert_to_tensor(loss)
    if len(loss.shape):
        raise ValueError(
            "The loss that `closed_form_gradient` returned has the shape "
            f"{tuple(loss.shape)}, and has to be a scalar: the mean over the samples."
        )
    return loss, [_checked_gradient(g, v) for g, v in zip(gradients, variables, strict=True)]


def _checked_gradient(gradient, variable):
    if gradient is None:
        return None
    if not isinstance(gradient, RowSparse):
        gradient = ops.convert_to_tensor(gradient)
    pairs = zip(gradient.shape, variable.shape, strict=False)
    if len(gradient.shape) != len(variable.shape) or any(
        g is not None and g != v for g, v in pairs
    ):
        raise ValueError(
            f"The gradient that `closed_form_gradient` returned for {variable.path} has the shape "
            f"{tuple(gradient.shape)}, and the variable has {tuple(variable.shape)}. The gradients "
            "are in the order of `self.trainable_variables`."
        )
    if isinstance(gradient, RowSparse):
        return gradient.with_values(ops.cast(gradient.values, variable.dtype))
    return ops.cast(gradient, variable.dtype)


def _is_regularised(variable):
    return getattr(variable, "regularizer", None) is not None
