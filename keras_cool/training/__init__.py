"""Multi-gradient training steps for Keras models: the mixin, the ready-made model, injection."""

from keras_cool.training.inject import inject
from keras_cool.training.mixin import MultiGradientMixin
from keras_cool.training.model import Model

__all__ = ["Model", "MultiGradientMixin", "inject"]
