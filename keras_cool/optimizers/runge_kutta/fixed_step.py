"""The Runge-Kutta methods of a fixed step size: `Heun`, `Midpoint`, `Ralston` and `RK4`.

A method is its tableau; `RungeKutta` runs it.
"""

import keras

from keras_cool.optimizers.runge_kutta.engine import RungeKutta
from keras_cool.optimizers.runge_kutta.tableau import Tableau


class FixedStepMethod(RungeKutta):
    """A method without an embedded error. A subclass sets `tableau`."""

    tableau: Tableau

    def __init__(self, optimizer, name=None):
        super().__init__(optimizer, type(self).tableau, name=name)

    def get_config(self):
        config = super().get_config()
        return {key: config[key] for key in ("name", "optimizer")}


@keras.saving.register_keras_serializable(package="keras_cool")
class Heun(FixedStepMethod):
    r"""Heun's method, also called the explicit trapezoidal rule or RK2. Order 2, two evaluations.

    With the gradient \(g\) and the learning rate \(h\) as the step size:

    \[ g_1 = g(p), \qquad g_2 = g(p - h\, g_1), \qquad p \leftarrow p - \tfrac{h}{2} (g_1 + g_2). \]

    A step holds at most three extra copies of the parameters: two gradients and a trial point.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.Heun("adam"), loss="mse")  # Heun(0.1): gradient descent
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    >>> int(history.history["gradient_evaluations"][-1])
    2

    Args:
        optimizer: A learning rate, a schedule, a Keras optimizer or the name of one, as for
            `MultiGradientOptimizer`.
        name: String or `None`, the name of the optimizer. Defaults to `"heun"`.

    Raises:
        ValueError, TypeError: As `MultiGradientOptimizer`.

    Reference:
        Heun, 1900, "Neue Methoden zur approximativen Integration der Differentialgleichungen einer
        unabhängigen Veränderlichen"; Hairer, Nørsett and Wanner, 1993, "Solving Ordinary
        Differential Equations I", section II.1.
    """

    tableau = Tableau(a=[[], [1]], b=[1 / 2, 1 / 2], order=2)


@keras.saving.register_keras_serializable(package="keras_cool")
class Midpoint(FixedStepMethod):
    r"""The explicit midpoint rule, also called the modified Euler method. Order 2, two evaluations.

    With the gradient \(g\) and the learning rate \(h\) as the step size:

    \[ g_1 = g(p), \qquad g_2 = g(p - \tfrac{h}{2} g_1), \qquad p \leftarrow p - h\, g_2. \]

    A step holds at most two extra copies of the parameters: a gradient and a trial point.

    Example:

    >>> import keras_cool as kc
    >>> kc.optimizers.Midpoint.tableau.c  # the second gradient is taken half a step ahead
    (0.0, 0.5)

    Args:
        optimizer: A learning rate, a schedule, a Keras optimizer or the name of one, as for
            `MultiGradientOptimizer`.
        name: String or `None`, the name of the optimizer. Defaults to `"midpoint"`.

    Raises:
        ValueError, TypeError: As `MultiGradientOptimizer`.

    Reference:
        Runge, 1895, "Ueber die numerische Auflösung von Differentialgleichungen"; Hairer, Nørsett
        and Wanner, 1993, "Solving Ordinary Differential Equations I", section II.1.
    """

    tableau = Tableau(a=[[], [1 / 2]], b=[0, 1], order=2)


@keras.saving.register_keras_serializable(package="keras_cool")
class Ralston(FixedStepMethod):
    r"""Ralston's method, of order 2 with the smallest bound on the local error. Two evaluations.

    With the gradient \(g\) and the learning rate \(h\) as the step size:

    \[ g_1 = g(p), \qquad g_2 = g(p - \tfrac{2}{3} h\, g_1), \qquad
       p \leftarrow p - h \big( \tfrac14 g_1 + \tfrac34 g_2 \big). \]

    A step holds at most three extra copies of the parameters: two gradients and a trial point.

    Example:

    >>> import keras_cool as kc
    >>> kc.optimizers.Ralston.tableau.b  # the weights of the two gradients
    (0.25, 0.75)

    Args:
        optimizer: A learning rate, a schedule, a Keras optimizer or the name of one, as for
            `MultiGradientOptimizer`.
        name: String or `None`, the name of the optimizer. Defaults to `"ralston"`.

    Raises:
        ValueError, TypeError: As `MultiGradientOptimizer`.

    Reference:
        Ralston, 1962, "Runge-Kutta methods with minimum error bounds".
    """

    tableau = Tableau(a=[[], [2 / 3]], b=[1 / 4, 3 / 4], order=2)


@keras.saving.register_keras_serializable(package="keras_cool")
class RK4(FixedStepMethod):
    r"""The classical Runge-Kutta method. Order 4, four evaluations.

    With the gradient \(g\) and the learning rate \(h\) as the step size:

    \[ g_1 = g(p), \quad g_2 = g(p - \tfrac{h}{2} g_1), \quad g_3 = g(p - \tfrac{h}{2} g_2), \quad
       g_4 = g(p - h\, g_3), \qquad
       p \leftarrow p - \tfrac{h}{6} (g_1 + 2 g_2 + 2 g_3 + g_4). \]

    A step holds at most three extra copies of the parameters, no more than a method of order 2.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> decay = keras.optimizers.schedules.CosineDecay(0.2, decay_steps=1000)
    >>> kc.optimizers.RK4(decay).evaluations  # of each step; the step size follows the schedule
    4

    Args:
        optimizer: A learning rate, a schedule, a Keras optimizer or the name of one, as for
            `MultiGradientOptimizer`.
        name: String or `None`, the name of the optimizer. Defaults to `"rk4"`.

    Raises:
        ValueError, TypeError: As `MultiGradientOptimizer`.

    Reference:
        Kutta, 1901, "Beitrag zur näherungsweisen Integration totaler Differentialgleichungen";
        Hairer, Nørsett and Wanner, 1993, "Solving Ordinary Differential Equations I", table
        II.1.2.
    """

    tableau = Tableau(
        a=[[], [1 / 2], [0, 1 / 2], [0, 0, 1]],
        b=[1 / 6, 1 / 3, 1 / 3, 1 / 6],
        order=4,
    )
