"""RK23: the Bogacki-Shampine pair of orders 3 and 2, four gradients a step."""

import keras

from keras_cool.optimizers.named_method import EmbeddedMethod
from keras_cool.optimizers.tableau import Tableau


@keras.saving.register_keras_serializable(package="keras_cool")
class RK23(EmbeddedMethod):
    r"""The Bogacki-Shampine method of order 3 with an embedded error of order 2. Four evaluations.

    With the gradient \(g\) and the step size \(h\) on the gradient flow \(\dot p = -g(p)\):

    \[ g_1 = g(p), \quad g_2 = g(p - \tfrac{h}{2} g_1), \quad g_3 = g(p - \tfrac{3 h}{4} g_2), \quad
       p_{\mathrm{new}} = p - \tfrac{h}{9} (2 g_1 + 3 g_2 + 4 g_3), \quad
       g_4 = g(p_{\mathrm{new}}), \]

    and \(h (-\tfrac{5}{72} g_1 + \tfrac{1}{12} g_2 + \tfrac19 g_3 - \tfrac18 g_4)\) is the error. A
    try costs three evaluations besides \(g_1\), which all tries share; with `full_batch=True` that
    is all that a step costs. With `adaptive=False` a step costs three, and \(g_4\) is left out.

    The step size is controlled as in `RungeKutta`, with the meanings and defaults of SciPy's
    `solve_ivp(method="RK23")`, step for step. On mini-batches the error is that of the present
    batch's flow; the noise between batches is none of it.

    At most five copies of the parameters are held besides them, three with `adaptive=False`, and
    two more in the state with `full_batch=True`.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.RK23(0.01, rtol=1e-2), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), epochs=3, verbose=0)
    >>> float(history.history["step_size"][-1]) > 0.01
    True

    Args:
        optimizer: The inner optimizer: a float (plain gradient descent; the first step size, or
            with `adaptive=False` every one), a `keras.optimizers.schedules.LearningRateSchedule`
            (with `adaptive=False`), the name of a Keras optimizer, or a Keras optimizer. Defaults
            to `None`: plain gradient descent whose first step size is chosen as well.
        rtol: Float, the relative tolerance: the error of a weight in a step is kept below
            `atol + rtol * abs(weight)`, in the root mean square over all weights. Defaults to
            `1e-3`.
        atol: Float, the absolute tolerance, in units of the weights. Defaults to `1e-6`.
        first_step: Float, the first step size; `"auto"`, chosen as by SciPy's `solve_ivp`, at the
            cost of one evaluation; or `None`: the learning rate that the first argument gives, a
            float or that of a Keras optimizer, and `"auto"` where it gives none. Defaults to
            `None`.
        max_step: Float, the largest step size, or `None`: any. Defaults to infinity.
        adaptive: Boolean, whether to control the step size. If `False` the learning rate or its
            schedule is the step size. Defaults to `True`.
        controller: `"I"`, as in `solve_ivp`, or `"PI"`, whose step sizes vary less; their formulas
            are in `RungeKutta`. Defaults to `"I"`.
        max_rejections: Integer, how often a step is tried again. Defaults to 10.
        full_batch: Boolean, whether every step sees the same batch: then the last stage serves as
            the first one of the next step, which saves an evaluation. It is used where weights and
            batch are found as they were there, over plain gradient descent. Defaults to `False`.
        name: String or `None`. The name of the optimizer. Defaults to `"rk23"`.

    Raises:
        ValueError: As `RungeKutta`, for settings out of their range or that exclude each other.
        TypeError: If `optimizer` is of another kind.

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
