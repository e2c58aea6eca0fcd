"""Optimizers that need gradients at several points, over any Keras optimizer."""

from keras_cool.optimizers.heun import Heun
from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer

__all__ = ["Heun", "MultiGradientOptimizer"]
