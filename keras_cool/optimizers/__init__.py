"""Optimizers that need several gradients or several batches, over any Keras optimizer."""

from keras_cool.optimizers.accumulate import Accumulate
from keras_cool.optimizers.heun import Heun
from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer

__all__ = ["Accumulate", "Heun", "MultiGradientOptimizer"]
