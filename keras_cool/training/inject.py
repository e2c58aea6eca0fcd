"""`inject`: gives a model that exists already the multi-gradient steps of the mixin."""

import functools

import keras

from keras_cool.keras_private import set_compiled_optimizer
from keras_cool.training.compilation import Injected
from keras_cool.training.loss_shares import LossKinds
from keras_cool.training.mixin import MultiGradientMixin


def inject(model, optimizer=None):
    """Adds multi-gradient steps to an existing Keras model, in place.

    The model may be functional, Sequential or subclassed, compiled or not, trained or not. Its
    weights, its optimizer and what it has learned stay. It saves as the class it was: after
    `keras.saving.load_model`, inject again to continue training. Injecting twice is harmless.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", loss="mse")
    >>> kc.inject(model) is model
    True
    >>> model.compile(kc.optimizers.Heun(0.1), loss="mse")
    >>> history = model.fit(keras.ops.ones((8, 4)), keras.ops.ones((8, 1)), verbose=0)

    Args:
        model: A Keras model.
        optimizer: A Keras optimizer or `None`. If given and the model is compiled, it takes the
            place of the model's own optimizer; loss, metrics and the rest of `compile` stay. If the
            model is not, the next `compile` that names no optimizer takes it.

    Returns:
        The same object.

    Raises:
        TypeError: If `model` is not a Keras model.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`inject` takes a Keras model. It was given {model!r} of type "
            f"{type(model).__name__}. Pass the model itself, for example "
            "`keras_cool.inject(keras.Sequential([...]))`."
        )
    _give_mixin(model)
    if model._is_plain:
        model._is_plain = False
        model.train_function = None
    if optimizer is not None and model.compiled and model.optimizer is not optimizer:
        set_compiled_optimizer(model, _scaled_as_compile_does(model, optimizer))
        model.train_function = None
    if optimizer is not None and not model.compiled:
        model._injected = Injected(optimizer)
    if model.compiled:
        model.share_seeds()
    return model


def give_mixin_for_callback(model):
    """Adds the mixin to a model for a callback inside its step. All else stays as without:
    `Accumulate` weights all batches alike, and carries the last window of an epoch on."""
    if not isinstance(model, MultiGradientMixin):
        _give_mixin(model)
        model._is_plain = True
    return model


def _give_mixin(model):
    if not isinstance(model, MultiGradientMixin):
        model.__class__ = _with_mixin(type(model))
        model._loss_kinds = LossKinds()
        model.train_function = None


@functools.cache
def _with_mixin(cls):
    """The subclass of `cls` with the mixin. Its objects give `cls` as their `__class__`, which is
    what Keras saves a model by."""
    namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__class__": property(lambda self: cls),
        "__reduce__": lambda self: _reduce(self, cls),
    }
    return type(cls)(cls.__name__, (MultiGradientMixin, cls), namespace)


def _reduce(model, cls):
    """Copies and pickles a model by way of the class it was."""
    rebuild, arguments = cls.__reduce__(model)
    rebuild = getattr(cls, rebuild.__name__)  # not the method of a class made on the fly
    if model._is_plain:
        return rebuild, arguments
    settings = (
        model._size_as_given(),
        model.memory_limit,
        model.whole_batch_loss,
        model.row_sparse,
    )
    return _rebuild_injected, (rebuild, arguments, *settings)


def _rebuild_injected(
    rebuild,
    arguments,
    microbatch_size,
    memory_limit=None,
    whole_batch_loss=False,
    row_sparse=False,
):
    model = inject(rebuild(*arguments))
    model._set_size(microbatch_size, memory_limit)
    model.whole_batch_loss, model.row_sparse = whole_batch_loss, row_sparse
    return model


def _scaled_as_compile_does(model, optimizer):
    scaled = keras.optimizers.LossScaleOptimizer
    if isinstance(model.optimizer, scaled) and not isinstance(optimizer, scaled):
        return scaled(optimizer, name="loss_scale_optimizer")
    return optimizer
