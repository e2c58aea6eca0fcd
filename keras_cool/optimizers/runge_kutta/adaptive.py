"""The Runge-Kutta methods that control their step size: `RK23`, `RK45` and `Tsit5`.

A method is its tableau; `RungeKutta` runs it, and describes the arguments.
"""

import math

import keras

from keras_cool.optimizers.runge_kutta.engine import RungeKutta
from keras_cool.optimizers.runge_kutta.tableau import Tableau


class AdaptiveMethod(RungeKutta):
    """A method with an embedded error. A subclass sets `tableau`."""

    tableau: Tableau

    def __init__(
        self,
        optimizer=None,
        *,
        rtol=1e-3,
        atol=1e-6,
        first_step=None,
        max_step=math.inf,
        adaptive=True,
        controller="I",
        max_rejections=10,
        full_batch=False,
        max_steps=None,
        flow_time=None,
        name=None,
    ):
        super().__init__(
            optimizer,
            type(self).tableau,
            adaptive=adaptive,
            rtol=rtol,
            atol=atol,
            first_step=first_step,
            max_step=max_step,
            controller=controller,
            max_rejections=max_rejections,
            full_batch=full_batch,
            max_steps=max_steps,
            flow_time=flow_time,
            name=name,
        )

    def get_config(self):
        config = super().get_config()
        del config["tableau"]
        return config


@keras.saving.register_keras_serializable(package="keras_cool")
class RK23(AdaptiveMethod):
    r"""The Bogacki-Shampine pair: order 3, embedded error of order 2. Four evaluations.

    With the gradient \(g\) and the step size \(h\), which is controlled as in SciPy's
    `solve_ivp(method="RK23")`, step for step (see `RungeKutta`):

    \[ g_1 = g(p), \quad g_2 = g(p - \tfrac{h}{2} g_1), \quad g_3 = g(p - \tfrac{3 h}{4} g_2), \quad
       p_{\mathrm{new}} = p - \tfrac{h}{9} (2 g_1 + 3 g_2 + 4 g_3), \quad
       g_4 = g(p_{\mathrm{new}}). \]

    The error is \(h (-\tfrac{5}{72} g_1 + \tfrac{1}{12} g_2 + \tfrac19 g_3 - \tfrac18 g_4)\). A
    rejected try costs three evaluations more. With `full_batch=True` a step saves \(g_1\), which
    is the \(g_4\) of the step before; with `adaptive=False` it leaves out \(g_4\).

    A step holds at most five extra copies of the parameters, three with `adaptive=False`. The
    state holds two more with `full_batch=True`.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.RK23(0.01, rtol=1e-2), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), epochs=3, verbose=0)
    >>> float(history.history["step_size"][-1]) > 0.01
    True

    Args:
        optimizer: A learning rate, which is the first step size, or a Keras optimizer or its name;
            with `adaptive=False` a schedule too. Defaults to `None`: plain gradient descent.
        rtol: Float, the relative tolerance of the error. Defaults to `1e-3`.
        atol: Float, the absolute tolerance, in units of the weights. Defaults to `1e-6`.
        first_step: Float or `"auto"`, the first step size. Defaults to the learning rate, if given.
        max_step: Float, the largest step size. Defaults to infinity.
        adaptive: Boolean, whether to control the step size. Defaults to `True`.
        controller: `"I"`, as in SciPy, or `"PI"`, whose step sizes vary less. Defaults to `"I"`.
        max_rejections: Integer, how often a rejected step is tried again. Defaults to 10.
        full_batch: Boolean, whether every step sees the same batch. Defaults to `False`.
        max_steps: Integer, the accepted steps of a training step, with `full_batch=True`. Defaults
            to 1, or 1000 with `flow_time`.
        flow_time: Float, the flow time of a training step, with `full_batch=True`, or `None`.
        name: String or `None`, the name of the optimizer. Defaults to `"rk23"`.

    Raises:
        ValueError, TypeError: As `RungeKutta`.

    Reference:
        Bogacki and Shampine, 1989, "A 3(2) pair of Runge-Kutta formulas", section 2.
    """

    tableau = Tableau(
        a=[[], [1 / 2], [0, 3 / 4], [2 / 9, 1 / 3, 4 / 9]],
        b=[2 / 9, 1 / 3, 4 / 9, 0],
        order=3,
        embedded_weights=[7 / 24, 1 / 4, 1 / 3, 1 / 8],
        embedded_order=2,
    )


@keras.saving.register_keras_serializable(package="keras_cool")
class RK45(AdaptiveMethod):
    r"""The Dormand-Prince pair (DOPRI5): order 5, embedded error of order 4. Seven evaluations.

    The step size is controlled as in SciPy's `solve_ivp(method="RK45")`, step for step (see
    `RungeKutta`). A rejected try costs six evaluations more. With `full_batch=True` a step saves
    the first evaluation, with `adaptive=False` the last.

    A step holds at most six extra copies of the parameters. The state holds two more with
    `full_batch=True`.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.RK45(0.01, full_batch=True), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), epochs=3, verbose=0)
    >>> [int(n) for n in history.history["gradient_evaluations"]]  # seven, then six a step
    [7, 13, 19]

    Args:
        optimizer: A learning rate, which is the first step size, or a Keras optimizer or its name;
            with `adaptive=False` a schedule too. Defaults to `None`: plain gradient descent.
        rtol: Float, the relative tolerance of the error. Defaults to `1e-3`.
        atol: Float, the absolute tolerance, in units of the weights. Defaults to `1e-6`.
        first_step: Float or `"auto"`, the first step size. Defaults to the learning rate, if given.
        max_step: Float, the largest step size. Defaults to infinity.
        adaptive: Boolean, whether to control the step size. Defaults to `True`.
        controller: `"I"`, as in SciPy, or `"PI"`, whose step sizes vary less. Defaults to `"I"`.
        max_rejections: Integer, how often a rejected step is tried again. Defaults to 10.
        full_batch: Boolean, whether every step sees the same batch. Defaults to `False`.
        max_steps: Integer, the accepted steps of a training step, with `full_batch=True`. Defaults
            to 1, or 1000 with `flow_time`.
        flow_time: Float, the flow time of a training step, with `full_batch=True`, or `None`.
        name: String or `None`, the name of the optimizer. Defaults to `"rk45"`.

    Raises:
        ValueError, TypeError: As `RungeKutta`.

    Reference:
        Dormand and Prince, 1980, "A family of embedded Runge-Kutta formulae", table 2; Hairer,
        Nørsett and Wanner, 1993, "Solving Ordinary Differential Equations I", table II.5.2.
    """

    tableau = Tableau(
        a=[
            [],
            [1 / 5],
            [3 / 40, 9 / 40],
            [44 / 45, -56 / 15, 32 / 9],
            [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
            [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
            [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
        ],
        b=[35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
        order=5,
        embedded_weights=[
            5179 / 57600,
            0,
            7571 / 16695,
            393 / 640,
            -92097 / 339200,
            187 / 2100,
            1 / 40,
        ],
        embedded_order=4,
    )


_TSIT5_WEIGHTS = [
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0.0,
]
_TSIT5_ERROR_WEIGHTS = [
    0.00178001105222577714,
    0.0008164344596567469,
    -0.007880878010261995,
    0.1447110071732629,
    -0.5823571654525552,
    0.45808210592918697,
    -1 / 66,
]


@keras.saving.register_keras_serializable(package="keras_cool")
class Tsit5(AdaptiveMethod):
    r"""Tsitouras' pair: order 5, embedded error of order 4. Seven evaluations.

    Its error constants are smaller than those of `RK45`, at the same cost. The step size is
    controlled in the same way (see `RungeKutta`). A rejected try costs six evaluations more. With
    `full_batch=True` a step saves the first evaluation, with `adaptive=False` the last.

    A step holds at most seven extra copies of the parameters, six with `adaptive=False`. The
    state holds two more with `full_batch=True`.

    Example:

    >>> import keras_cool as kc
    >>> optimizer = kc.optimizers.Tsit5(0.1, adaptive=False)  # every step has the size 0.1
    >>> optimizer.evaluations
    6

    Args:
        optimizer: A learning rate, which is the first step size, or a Keras optimizer or its name;
            with `adaptive=False` a schedule too. Defaults to `None`: plain gradient descent.
        rtol: Float, the relative tolerance of the error. Defaults to `1e-3`.
        atol: Float, the absolute tolerance, in units of the weights. Defaults to `1e-6`.
        first_step: Float or `"auto"`, the first step size. Defaults to the learning rate, if given.
        max_step: Float, the largest step size. Defaults to infinity.
        adaptive: Boolean, whether to control the step size. Defaults to `True`.
        controller: `"I"`, as in SciPy, or `"PI"`, whose step sizes vary less. Defaults to `"I"`.
        max_rejections: Integer, how often a rejected step is tried again. Defaults to 10.
        full_batch: Boolean, whether every step sees the same batch. Defaults to `False`.
        max_steps: Integer, the accepted steps of a training step, with `full_batch=True`. Defaults
            to 1, or 1000 with `flow_time`.
        flow_time: Float, the flow time of a training step, with `full_batch=True`, or `None`.
        name: String or `None`, the name of the optimizer. Defaults to `"tsit5"`.

    Raises:
        ValueError, TypeError: As `RungeKutta`.

    Reference:
        Tsitouras, 2011, "Runge-Kutta pairs of order 5(4) satisfying only the first column
        simplifying assumption", table 1.
    """

    tableau = Tableau(
        a=[
            [],
            [0.161],
            [-0.008480655492356989, 0.335480655492357],
            [2.8971530571054935, -6.359448489975075, 4.3622954328695815],
            [5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525],
            [
                5.86145544294642,
                -12.92096931784711,
                8.159367898576159,
                -0.071584973281401,
                -0.028269050394068383,
            ],
            _TSIT5_WEIGHTS[:-1],
        ],
        b=_TSIT5_WEIGHTS,
        order=5,
        embedded_weights=[b - e for b, e in zip(_TSIT5_WEIGHTS, _TSIT5_ERROR_WEIGHTS, strict=True)],
        embedded_order=4,
    )
