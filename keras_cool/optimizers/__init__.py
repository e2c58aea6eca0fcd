"""Optimizers that need several gradients or several batches, over any Keras optimizer."""

from keras_cool.optimizers import schedules
from keras_cool.optimizers.accumulate import Accumulate
from keras_cool.optimizers.games import Extragradient, OptimisticGradient
from keras_cool.optimizers.gauss_newton import LevenbergMarquardt
from keras_cool.optimizers.lazy_adam import LazyAdam
from keras_cool.optimizers.lazy_momentum import LazyMomentum
from keras_cool.optimizers.lookahead import Lookahead
from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer
from keras_cool.optimizers.quasi_newton import BFGS, LBFGS, SSBroyden
from keras_cool.optimizers.runge_kutta import (
    RK4,
    RK23,
    RK45,
    Heun,
    Midpoint,
    Ralston,
    RungeKutta,
    RungeKuttaChebyshev,
    Tableau,
    Tsit5,
)
from keras_cool.optimizers.sharpness import SAM

__all__ = [
    "BFGS",
    "LBFGS",
    "RK4",
    "RK23",
    "RK45",
    "SAM",
    "Accumulate",
    "Extragradient",
    "Heun",
    "LazyAdam",
    "LazyMomentum",
    "LevenbergMarquardt",
    "Lookahead",
    "Midpoint",
    "MultiGradientOptimizer",
    "OptimisticGradient",
    "Ralston",
    "RungeKutta",
    "RungeKuttaChebyshev",
    "SSBroyden",
    "Tableau",
    "Tsit5",
    "schedules",
]
