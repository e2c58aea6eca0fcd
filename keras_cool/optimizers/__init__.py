"""Optimizers that need several gradients or several batches, over any Keras optimizer."""

from keras_cool.optimizers import schedules
from keras_cool.optimizers.accumulate import Accumulate
from keras_cool.optimizers.heun import Heun
from keras_cool.optimizers.midpoint import Midpoint
from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer
from keras_cool.optimizers.ralston import Ralston
from keras_cool.optimizers.rk4 import RK4
from keras_cool.optimizers.rk23 import RK23
from keras_cool.optimizers.rk45 import RK45
from keras_cool.optimizers.runge_kutta import RungeKutta
from keras_cool.optimizers.runge_kutta_chebyshev import RungeKuttaChebyshev
from keras_cool.optimizers.tableau import Tableau
from keras_cool.optimizers.tsit5 import Tsit5

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
