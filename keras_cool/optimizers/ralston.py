"""Ralston's method: order 2 with the least bound on the error, two gradients a step."""

import keras

from keras_cool.optimizers.named_method import FixedStepMethod
from keras_cool.optimizers.tableau import Tableau


@keras.saving.register_keras_serializable(package="keras_cool")
class Ralston(FixedStepMethod):
    r"""Ralston's method, of order 2 with the least bound on the local error. Two evaluations.

    With the gradient \(g\) and the learning rate \(h\) as the step size of the gradient flow
    \(\dot p = -g(p)\):

    \[ g_1 = g(p), \qquad g_2 = g(p - \tfrac{2}{3} h\, g_1), \qquad
       p \leftarrow p - h \big( \tfrac14 g_1 + \tfrac34 g_2 \big). \]

    Over a preconditioned optimizer such as Adam the trial points lie along its own direction, and
    the estimate is what it takes its step with.

    At most three copies of the parameters are held besides them, two gradients and a trial point.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.Ralston(0.1), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    >>> int(history.history["gradient_evaluations"][-1])
    2

    Args:
        optimizer: The inner optimizer: a float (plain gradient descent at that learning rate), a
            `keras.optimizers.schedules.LearningRateSchedule` (the same, on a schedule), the name of
            a Keras optimizer, or a Keras optimizer.
        name: String or `None`. The name of the optimizer. Defaults to `"ralston"`.

    Raises:
        ValueError: If the learning rate is negative or not finite, or the name names no optimizer.
        TypeError: If `optimizer` is none of the four.

    Reference:
        Ralston, 1962, "Runge-Kutta methods with minimum error bounds".
    """

    tableau = Tableau(a=[[], [2 / 3]], b=[1 / 4, 3 / 4], order=2)
