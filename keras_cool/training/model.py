"""`keras_cool.Model`: `keras.Model` with the mixin, functional and subclassed."""

import keras

from keras_cool.keras_private import Functional as KerasFunctional
from keras_cool.keras_private import functional_init_arguments
from keras_cool.training.mixin import MultiGradientMixin


@keras.saving.register_keras_serializable(package="keras_cool")
class Model(MultiGradientMixin, keras.Model):
    """`keras.Model` with multi-gradient steps. See `MultiGradientMixin` for what that adds.

    Like `keras.Model` it is used in two ways: called with `inputs` and `outputs` (functional), or
    subclassed. It saves and loads without `custom_objects` wherever keras_cool is imported.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> inputs = keras.Input((4,))
    >>> model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
    >>> model.compile(kc.optimizers.Heun(keras.optimizers.SGD(0.1, momentum=0.9)), loss="mse")
    >>> history = model.fit(keras.ops.ones((8, 4)), keras.ops.ones((8, 1)), verbose=0)

    Args:
        *args: As for `keras.Model`: `inputs` and `outputs`, nests of `keras.KerasTensor`, or
            nothing when subclassed.
        **kwargs: As for `keras.Model`: `name`, `trainable`, `dtype`.
    """

    def __new__(cls, *args, **kwargs):
        if cls is Model and functional_init_arguments(args, kwargs):
            return super().__new__(Functional)
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        if functional_init_arguments(args, kwargs):
            _make_functional(type(self))
            Functional.__init__(self, *args, **kwargs)
        else:
            super().__init__(*args, **kwargs)


@keras.saving.register_keras_serializable(package="keras_cool")
class Functional(Model, KerasFunctional):
    """What `keras_cool.Model(inputs, outputs)` makes."""

    # The signature by which every Keras, old or new, knows that it may save the layers.
    def __init__(self, *args, **kwargs):
        KerasFunctional.__init__(self, *args, **kwargs)


def _make_functional(cls):
    """Puts `Functional` in the place of `Model` among the bases of a subclass that calls
    `super().__init__(inputs, outputs)`, as Keras does for subclasses of its own."""
    if issubclass(cls, Functional):
        return
    for base in cls.__bases__:
        if issubclass(base, Model) and base is not Model:
            _make_functional(base)
    cls.__bases__ = tuple(Functional if base is Model else base for base in cls.__bases__)
