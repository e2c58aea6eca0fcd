"""The explicit midpoint rule: the gradient half a step ahead, two gradients a step."""

import keras

from keras_cool.optimizers.named_method import FixedStepMethod
from keras_cool.optimizers.tableau import Tableau


@keras.saving.register_keras_serializable(package="keras_cool")
class Midpoint(FixedStepMethod):
    r"""The explicit midpoint rule, also called the modified Euler method. Order 2, two evaluations.

    With the gradient \(g\) and the learning rate \(h\) as the step size of the gradient flow
    \(\dot p = -g(p)\):

    \[ g_1 = g(p), \qquad g_2 = g(p - \tfrac{h}{2} g_1), \qquad p \leftarrow p - h\, g_2. \]

    Over a preconditioned optimizer such as Adam the trial points lie along its own direction, and
    the estimate is what it takes its step with.

    At most two copies of the parameters are held besides them, a gradient and a trial point.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.Midpoint(0.1), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    >>> int(history.history["gradient_evaluations"][-1])
    2

    Args:
        optimizer: The inner optimizer: a float (plain gradient descent at that learning rate), a
            `keras.optimizers.schedules.LearningRateSchedule` (the same, on a schedule), the name of
            a Keras optimizer, or a Keras optimizer.
        name: String or `None`. The name of the optimizer. Defaults to `"midpoint"`.

    Raises:
        ValueError: If the learning rate is negative or not finite, or the name names no optimizer.
        TypeError: If `optimizer` is none of the four.

    Reference:
        Runge, 1895, "Ueber die numerische Auflösung von Differentialgleichungen"; Hairer, Nørsett
        and Wanner, 1993, "Solving Ordinary Differential Equations I", section II.1.
    """

    tableau = Tableau(a=[[], [1 / 2]], b=[0, 1], order=2)
