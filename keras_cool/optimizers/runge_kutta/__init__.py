"""Explicit Runge-Kutta methods of the gradient flow: their tableaus, and the engine over them."""

from keras_cool.optimizers.runge_kutta.adaptive import RK23, RK45, Tsit5
from keras_cool.optimizers.runge_kutta.chebyshev import RungeKuttaChebyshev
from keras_cool.optimizers.runge_kutta.engine import RungeKutta
from keras_cool.optimizers.runge_kutta.fixed_step import RK4, Heun, Midpoint, Ralston
from keras_cool.optimizers.runge_kutta.tableau import Tableau

__all__ = [
    "RK4",
    "RK23",
    "RK45",
    "Heun",
    "Midpoint",
    "Ralston",
    "RungeKutta",
    "RungeKuttaChebyshev",
    "Tableau",
    "Tsit5",
]
