"""`OptimisticGradient`: the gradient extrapolated by the last one."""

import keras
from keras import ops

from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer


@keras.saving.register_keras_serializable(package="keras_cool")
class OptimisticGradient(MultiGradientOptimizer):
    r"""The optimistic gradient method, for GANs and other games. One evaluation.

    With the gradient \(g_t\) of step \(t\), the inner optimizer applies

    \[ g_t + (g_t - g_{t-1}) = 2 g_t - g_{t-1}, \]

    and \(g_t\) alone in the first step and after one that was skipped. It is the extragradient
    method with the gradient of the step before in the place of a second evaluation (Popov's
    method), and leads to the solution of games around which gradient descent circles. Adam is given
    the extrapolated gradient too, and normalises by it.

    A step holds two extra copies of the parameters: the gradients of this step and of the last,
    which is saved.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.OptimisticGradient(0.1), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    >>> int(history.history["gradient_evaluations"][-1])
    1

    Args:
        optimizer: A learning rate, a schedule, a Keras optimizer or the name of one, as for
            `MultiGradientOptimizer`.
        name: String or `None`, the name of the optimizer. Defaults to `"optimistic_gradient"`.

    Raises:
        ValueError, TypeError: As `MultiGradientOptimizer`.

    Reference:
        Popov, 1980, "A modification of the Arrow-Hurwicz method for search of saddle points";
        Daskalakis, Ilyas, Syrgkanis and Zeng, 2018, "Training GANs with Optimism", equation 3.
    """

    def __init__(self, optimizer, name=None):
        super().__init__(optimizer, name)
        self._has_last = self._counter("has_last_gradient")
        self._last = []

    def build(self, variables):
        super().build(variables)
        self._last = self._slots(variables, "last_gradient")

    def estimate_gradient(self, evaluate, point):
        _, gradients = evaluate(point)
        last = self._slots_of(self._last, evaluate.variables)
        has_last = self._has_last.value == 1
        estimate = [2 * g for g in gradients]
        for i, variable in enumerate(last):
            estimate[i] -= variable.value  # on PyTorch in place, which saves a pass over the memory
            estimate[i] = ops.where(has_last, estimate[i], gradients[i])
        for variable, gradient in zip(last, gradients, strict=True):
            variable.assign(gradient)
        return estimate

    @property
    def kept_variables(self):
        """The variables that a skipped step assigns to as well: the last gradient."""
        return self._last

    def count(self, gradient_evaluations, finite):
        self._has_last.assign(ops.cast(finite, "int32"))
        super().count(gradient_evaluations, finite)
