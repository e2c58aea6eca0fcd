"""A step of one's own: what it is given and returns, and what is wrong with it."""

import inspect

import keras

from keras_cool.keras_private import Trainer


def check_bases(cls, mixin):
    """Raises a `TypeError` if the mixin stands behind Keras' trainer in the bases of a class."""
    mro = cls.__mro__
    if Trainer in mro and mro.index(Trainer) < mro.index(mixin):
        raise TypeError(
            f"In the bases of {cls.__name__} the mixin has to come first, or Keras' own "
            f"training step hides its: class {cls.__name__}(keras_cool.MultiGradientMixin, "
            "keras.Model)."
        )


def check_signature(cls):
    """Raises a `TypeError` if the `multi_gradient_step` of a class takes other arguments."""
    try:
        inspect.signature(cls.multi_gradient_step).bind(None, None, None, None)
    except TypeError as error:
        raise TypeError(
            f"`multi_gradient_step` of {cls.__name__} is called with the parts of a batch: def "
            "multi_gradient_step(self, x, y, sample_weight). It was defined as "
            f"multi_gradient_step{inspect.signature(cls.multi_gradient_step)}."
        ) from error


def check_logs(logs, name):
    """Raises an error if what the `multi_gradient_step` of the class `name` returned is no logs."""
    if not isinstance(logs, dict):
        raise TypeError(
            f"`multi_gradient_step` of {name} has to return the logs: a "
            "dictionary of names and scalar tensors, for example {'loss': loss}. It returned "
            f"{logs!r} of type {type(logs).__name__}."
        )
    shape = getattr(logs.get("loss"), "shape", ())
    if shape and len(shape):  # TensorFlow may not know it
        raise ValueError(
            f"The 'loss' that `multi_gradient_step` of {name} returned has the "
            f"shape {tuple(shape)}, and has to be a scalar. Reduce it, for "
            "example with keras.ops.mean."
        )


def check_gradients(gradients, variables, optimizer):
    """Raises an error if an optimizer cannot be given the gradients for the variables."""
    if len(gradients) != len(variables):
        raise ValueError(
            "`apply_gradients` takes one gradient for each variable, `None` where there is "
            f"none. It was given {len(gradients)} gradients for {len(variables)} variables."
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "The `optimizer` of `apply_gradients` is a Keras optimizer, an attribute of the "
            f"model. It was given {optimizer!r}."
        )


def checked_variables(variables, method):
    """Returns the `variables` of a method as a list, or raises a `TypeError`."""
    listed = list(variables) if isinstance(variables, list | tuple) else None
    if listed is None or not all(isinstance(v, keras.Variable) for v in listed):
        raise TypeError(
            f"The `variables` of `{method}` are a list of keras.Variables, for example "
            f"self.trainable_variables. It was given {variables!r}."
        )
    return listed


def with_aux(loss_function, has_aux):
    """Returns a loss function that returns `(loss, aux)`, checked; `aux` may be `None`."""

    def checked(*batch):
        result = loss_function(*batch)
        is_a_pair = isinstance(result, tuple | list) and len(result) == 2
        if has_aux and not is_a_pair:
            raise ValueError(
                "With `has_aux=True` the loss function returns a pair, (loss, aux). It returned "
                f"{result!r}. Return a pair, or drop `has_aux=True`."
            )
        if not has_aux and isinstance(result, tuple | list):
            raise ValueError(
                f"The loss function returned {len(result)} values, and has to return a scalar. "
                "With `has_aux=True` it may return a pair, (loss, aux)."
            )
        return result if has_aux else (result, None)

    return checked


def check_forward(forward, batch, is_needed):
    """Raises an error if `value_and_grad` cannot do with the `forward` that it was given.

    Args:
        forward: The function, or `None`.
        batch: The batch, or `None`.
        is_needed: Boolean, whether the model was compiled for a loss of the whole batch.
    """
    if forward is not None and not callable(forward):
        raise TypeError(
            "`forward` of `value_and_grad` is a function of the batch that computes the outputs, "
            f"for example lambda x, y: self(x, training=True). It was given {forward!r}."
        )
    if forward is not None and not batch:
        raise ValueError(
            "`value_and_grad` was given `forward` without the batch to call it with: "
            "self.value_and_grad(lambda x, y, outputs: ..., variables, batch=(x, y), "
            "forward=lambda x, y: self(x, training=True))."
        )
    if forward is None and batch and is_needed:
        raise ValueError(
            "The model was compiled with `whole_batch_loss=True`, and `value_and_grad` was not "
            "told how to compute the outputs that the loss of the whole batch is made of: "
            "self.value_and_grad(lambda x, y, outputs: ..., variables, batch=(x, y), "
            "forward=lambda x, y: self(x, training=True))."
        )
