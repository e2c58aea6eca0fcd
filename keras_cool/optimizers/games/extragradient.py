"""`Extragradient`: the gradient at the point that a first step would lead to."""

import keras
from keras import ops

from keras_cool.keras_private import optimizer_of
from keras_cool.optimizer_roles import chain
from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer
from keras_cool.optimizers.preconditioner import preconditioner
from keras_cool.optimizers.weighted_sum import add_to_smallest, moved, zero_if_finite


@keras.saving.register_keras_serializable(package="keras_cool")
class Extragradient(MultiGradientOptimizer):
    r"""The extragradient method, for GANs and other games. Two evaluations.

    With the gradient \(g\) and the learning rate \(h\):

    \[ g_1 = g(p), \qquad g_2 = g(p - h P g_1), \qquad p \leftarrow p - h P g_2. \]

    In a game one part of the weights lowers what another raises (give those
    `keras_cool.reverse_gradient`), and gradient descent circles around the solution or away from
    it. The gradient at the extrapolated point leads inwards. Over a Keras optimizer \(P\) is its
    preconditioner, as for `RungeKutta`: \(1 / (\sqrt{v} + \epsilon)\) for Adam, 1 for gradient
    descent. The extrapolation leaves momentum out; the inner optimizer sees \(g_2\) alone.

    A `keras.optimizers.MultiOptimizer` gives each player an optimizer and a learning rate of its
    own.

    A step holds at most three extra copies of the parameters: two gradients and a trial point.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> adam = keras.optimizers.Adam(1e-3, beta_1=0.0)
    >>> model.compile(kc.optimizers.Extragradient(adam), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    >>> int(history.history["gradient_evaluations"][-1])
    2

    Args:
        optimizer: A learning rate, a schedule, a Keras optimizer or the name of one, as for
            `MultiGradientOptimizer`.
        name: String or `None`, the name of the optimizer. Defaults to `"extragradient"`.

    Raises:
        ValueError, TypeError: As `MultiGradientOptimizer`.

    Reference:
        Korpelevich, 1976, "The extragradient method for finding saddle points and other problems";
        Gidel, Berard, Vignoud, Vincent and Lacoste-Julien, 2019, "A Variational Inequality
        Perspective on Generative Adversarial Networks", section 3 (over Adam, which there sees both
        gradients).
    """

    def estimate_gradient(self, evaluate, point):
        _, first = evaluate(point)
        zero_or_nan = zero_if_finite(first)
        trial = self._extrapolated(evaluate.variables, point, first)
        del first
        _, second = evaluate(trial)
        return add_to_smallest(second, zero_or_nan)

    def _extrapolated(self, variables, point, gradients):
        """Returns the point a step ahead, each variable at the rate of its optimizer."""
        inner = chain(self)[-1]
        places: dict = {}
        for place, variable in enumerate(variables):
            places.setdefault(optimizer_of(inner, variable), []).append(place)
        trial = list(point)
        for optimizer, own in places.items():
            of_own = [variables[i] for i in own]
            tensors = [gradients[i] for i in own]
            rate = ops.convert_to_tensor(optimizer.learning_rate)
            diagonal = preconditioner(optimizer, of_own, tensors)
            ahead = moved([point[i] for i in own], rate, tensors, diagonal)
            for i, tensor in zip(own, ahead, strict=True):
                trial[i] = tensor
        return trial
