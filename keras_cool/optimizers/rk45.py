"""RK45: the Dormand-Prince pair of orders 5 and 4, seven gradients a step."""

import keras

from keras_cool.optimizers.named_method import EmbeddedMethod
from keras_cool.optimizers.tableau import Tableau


@keras.saving.register_keras_serializable(package="keras_cool")
class RK45(EmbeddedMethod):
    r"""The Dormand-Prince method of order 5 with an embedded error of order 4. Seven evaluations.

    It is the tableau DOPRI5 on the gradient flow \(\dot p = -g(p)\). A try costs six evaluations
    besides the first one, which all tries share; with `full_batch=True` that is all that a step
    costs. With `adaptive=False` a step costs six.

    The step size is controlled as in `RungeKutta`, with the meanings and defaults of SciPy's
    `solve_ivp(method="RK45")`, step for step. On mini-batches the error is that of the present
    batch's flow; the noise between batches is none of it.

    At most six copies of the parameters are held besides them, and two more in the state with
    `full_batch=True`.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.RK45(0.01, rtol=1e-2), loss="mse")
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
        name: String or `None`. The name of the optimizer. Defaults to `"rk45"`.

    Raises:
        ValueError: As `RungeKutta`, for settings out of their range or that exclude each other.
        TypeError: If `optimizer` is of another kind.

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
