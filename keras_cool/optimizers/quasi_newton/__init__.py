"""Quasi-Newton methods: L-BFGS, BFGS and the self-scaled Broyden method."""

from keras_cool.optimizers.quasi_newton.broyden import BFGS, SSBroyden
from keras_cool.optimizers.quasi_newton.lbfgs import LBFGS

__all__ = ["BFGS", "LBFGS", "SSBroyden"]
