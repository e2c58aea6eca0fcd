"""Training steps for Keras 3 that need more than one gradient, on JAX, TensorFlow and PyTorch."""

from keras_cool import callbacks, optimizers
from keras_cool.backend.row_sparse import RowSparse
from keras_cool.float64 import enable_float64
from keras_cool.gradients import value_and_grad
from keras_cool.gradients.reversal import reverse_gradient
from keras_cool.gradients.transforms import hvp, jacobian, jvp, per_sample_gradients, vjp
from keras_cool.training.closed_form import check_gradient
from keras_cool.training.inject import inject
from keras_cool.training.mixin import MultiGradientMixin
from keras_cool.training.model import Model
from keras_cool.training.residuals import squared_residuals
from keras_cool.version import __version__

optimizers.MultiGradientOptimizer._inject = staticmethod(inject)

__all__ = [
    "Model",
    "MultiGradientMixin",
    "RowSparse",
    "__version__",
    "callbacks",
    "check_gradient",
    "enable_float64",
    "hvp",
    "inject",
    "jacobian",
    "jvp",
    "optimizers",
    "per_sample_gradients",
    "reverse_gradient",
    "squared_residuals",
    "value_and_grad",
    "vjp",
]
