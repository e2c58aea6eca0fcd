"""Optimizers that need several gradients or several batches, over any Keras optimizer."""

from keras_cool.optimizers import schedules
from keras_cool.optimizers.accumulate import Accumulate
from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer
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

__all__ = [
    "RK4",
    "RK23",
    "RK45",
    "Accumulate",
    "Heun",
    "Midpoint",
    "MultiGradientOptimizer",
    "Ralston",
    "RungeKutta",
    "RungeKuttaChebyshev",
    "Tableau",
    "Tsit5",
    "schedules",
]
