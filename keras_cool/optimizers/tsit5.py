"""Tsit5: Tsitouras' pair of orders 5 and 4, seven gradients a step."""

import keras

from keras_cool.optimizers.named_method import EmbeddedMethod
from keras_cool.optimizers.tableau import Tableau

_WEIGHTS = [
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0.0,
]
_ERROR = [
    0.00178001105222577714,
    0.0008164344596567469,
    -0.007880878010261995,
    0.1447110071732629,
    -0.5823571654525552,
    0.45808210592918697,
    -1 / 66,
]


@keras.saving.register_keras_serializable(package="keras_cool")
class Tsit5(EmbeddedMethod):
    r"""Tsitouras' method of order 5 with an embedded error of order 4. Seven evaluations.

    Its error constants are smaller than those of `RK45`, at the same cost: a try takes six
    evaluations besides the first one, which all tries share; with `full_batch=True` that is all
    that a step takes, and with `adaptive=False` too. It follows the gradient flow
    \(\dot p = -g(p)\), and its step size is controlled as in `RungeKutta`.

    At most seven copies of the parameters are held besides them, six with `adaptive=False`, and two
    more in the state with `full_batch=True`.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.Tsit5(0.01, rtol=1e-2), loss="mse")
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
        max_step: Float, the largest step size. Defaults to infinity.
        adaptive: Boolean, whether to control the step size. If `False` the learning rate or its
            schedule is the step size. Defaults to `True`.
        controller: `"I"`, as in `solve_ivp`, or `"PI"`, whose step sizes vary less; their formulas
            are in `RungeKutta`. Defaults to `"I"`.
        max_rejections: Integer, how often a step is tried again. Defaults to 10.
        full_batch: Boolean, whether every step sees the same batch: then the last stage serves as
            the first one of the next step, which saves an evaluation. It is used where weights and
            batch are found as they were there, over plain gradient descent. Defaults to `False`.
        name: String or `None`. The name of the optimizer. Defaults to `"tsit5"`.

    Raises:
        ValueError: As `RungeKutta`, for settings out of their range or that exclude each other.
        TypeError: If `optimizer` is of another kind.

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
            _WEIGHTS[:-1],
        ],
        b=_WEIGHTS,
        order=5,
        embedded_weights=[b - e for b, e in zip(_WEIGHTS, _ERROR, strict=True)],
        embedded_order=4,
    )
