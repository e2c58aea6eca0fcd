"""RK4: the classical Runge-Kutta method of order 4, four gradients a step."""

import keras

from keras_cool.optimizers.named_method import FixedStepMethod
from keras_cool.optimizers.tableau import Tableau


@keras.saving.register_keras_serializable(package="keras_cool")
class RK4(FixedStepMethod):
    r"""The classical Runge-Kutta method. Order 4, four evaluations.

    With the gradient \(g\) and the learning rate \(h\) as the step size of the gradient flow
    \(\dot p = -g(p)\):

    \[ g_1 = g(p), \quad g_2 = g(p - \tfrac{h}{2} g_1), \quad g_3 = g(p - \tfrac{h}{2} g_2), \quad
       g_4 = g(p - h\, g_3), \qquad
       p \leftarrow p - \tfrac{h}{6} (g_1 + 2 g_2 + 2 g_3 + g_4). \]

    Over a preconditioned optimizer such as Adam the trial points lie along its own direction, and
    the estimate is what it takes its step with.

    At most three copies of the parameters are held besides them, as many as by methods of order 2.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.RK4(0.1), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    >>> int(history.history["gradient_evaluations"][-1])
    4

    Args:
        optimizer: The inner optimizer: a float (plain gradient descent at that learning rate), a
            `keras.optimizers.schedules.LearningRateSchedule` (the same, on a schedule), the name of
            a Keras optimizer, or a Keras optimizer.
        name: String or `None`. The name of the optimizer. Defaults to `"rk4"`.

    Raises:
        ValueError: If the learning rate is negative or not finite, or the name names no optimizer.
        TypeError: If `optimizer` is none of the four.

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
