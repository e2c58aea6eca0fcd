"""`RungeKuttaChebyshev`: stabilised methods, stable for steps that grow with the stages squared."""

import keras
from keras import ops

from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer
from keras_cool.optimizers.preconditioner import follows_a_flow, preconditioner
from keras_cool.optimizers.runge_kutta import chebyshev_coefficients
from keras_cool.optimizers.weighted_sum import WeightedSum, moved

_DAMPING = {1: 0.05, 2: 2 / 13}


@keras.saving.register_keras_serializable(package="keras_cool")
class RungeKuttaChebyshev(MultiGradientOptimizer):
    r"""The Runge-Kutta-Chebyshev method (RKC): `s` stages, steps up to about `s * s` times as long.

    Gradient descent is stable while the step size \(h\) times the largest curvature of the loss
    (the largest eigenvalue of its Hessian) is at most 2. Here the \(s\) stages, \(s\) gradients a
    step, are chosen for stability instead of a high order: the product may reach
    `stability_limit`, about \(2 s^2\) at order 1 and \(0.65\, (s^2 - 1)\) at order 2. With the
    displacements \(d_j\) along the gradient flow \(\dot p = -g(p)\),

    \[ d_0 = 0, \qquad d_1 = \tilde\mu_1 g_0, \qquad
       d_j = \mu_j d_{j-1} + \nu_j d_{j-2} + \tilde\mu_j g_{j-1} + \tilde\gamma_j g_0, \qquad
       g_j = g(p - h\, d_j), \qquad p \leftarrow p - h\, d_s. \]

    It pays off if the loss is stiff: some directions are much more curved than those that matter.
    Over a preconditioned optimizer such as Adam the trial points lie along its own direction.

    A step holds at most four extra copies of the parameters, five at order 2, whatever `stages` is.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> optimizer = kc.optimizers.RungeKuttaChebyshev(0.1, stages=10)
    >>> round(optimizer.stability_limit, 1)  # of 10 gradients; 10 steps of gradient descent have 20
    193.6
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(optimizer, loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    >>> int(history.history["gradient_evaluations"][-1])
    10

    Args:
        optimizer: The inner optimizer: a float (plain gradient descent at that learning rate), a
            `keras.optimizers.schedules.LearningRateSchedule` (the same, on a schedule), the name of
            a Keras optimizer, or a Keras optimizer that follows a gradient flow.
        stages: Integer, the number of stages, at least 1, and 2 at order 2. Defaults to 5.
        damping: Float, how much to damp the oscillations near the limit. A larger one lowers the
            limit. Defaults to `None`: 0.05 at order 1, 2/13 at order 2.
        order: 1 or 2, the order of the method. Defaults to 1.
        name: String or `None`. The name of the optimizer. Defaults to `"runge_kutta_chebyshev"`.

    Raises:
        ValueError: If the learning rate is negative or not finite, the name names no optimizer, the
            optimizer follows no gradient flow, or `stages`, `damping` or `order` is out of its
            range.
        TypeError: If `optimizer` is of another kind.

    Reference:
        van der Houwen and Sommeijer, 1980, "On the internal stability of explicit, m-stage
        Runge-Kutta methods for large m-values" (order 1); Sommeijer, Shampine and Verwer, 1998,
        "RKC: An explicit solver for parabolic PDEs", section 2 (order 2).
        Eftekhari, Vandereycken, Vilmart and Zygalakis, 2021, "Explicit stabilised gradient descent
        for faster strongly convex optimisation" (its use as an optimizer).
    """

    def __init__(self, optimizer, stages=5, damping=None, order=1, name=None):
        super().__init__(optimizer, name=name)
        given = _DAMPING.get(order) if damping is None else damping
        chebyshev_coefficients.check_arguments(stages, given, order)
        if not follows_a_flow(self.inner_optimizer):
            raise ValueError(
                f"RungeKuttaChebyshev was given {type(self.inner_optimizer).__name__}, whose step "
                "is none along a gradient flow: there is no stiffness to stabilise. Give a "
                "learning rate, RungeKuttaChebyshev(0.1), or gradient descent, Adam or the like."
            )
        self.stages, self.damping, self.order = stages, damping, order
        make = (chebyshev_coefficients.first_order, chebyshev_coefficients.second_order)[order - 1]
        self._coefficients = make(stages, given)

    @property
    def stability_limit(self):
        """The largest step size times curvature for which a step is stable."""
        return self._coefficients.stability_limit

    def estimate_gradient(self, evaluate, point):
        _, first = evaluate(point)
        rate = ops.convert_to_tensor(self.inner_optimizer.learning_rate)
        diagonal = preconditioner(self.inner_optimizer, evaluate.variables, first)
        coefficients = zip(*self._coefficients[:4], strict=True)
        _, _, mu_tilde, _ = next(coefficients)
        before, present = [], [mu_tilde * g for g in first]
        if self.order == 1:
            del first  # saves a copy of the parameters
        for mu, nu, mu_tilde, gamma_tilde in coefficients:
            total = WeightedSum()
            total.add(mu_tilde, evaluate(moved(point, rate, present, diagonal))[1])
            total.add(mu, present)
            if before:
                total.add(nu, before)
            if gamma_tilde:
                total.add(gamma_tilde, first)
            before, present = present, total.tensors()
            del total
        return present

    def get_config(self):
        """The configuration: the inner optimizer, the stages, their damping and the order."""
        return {
            **super().get_config(),
            "stages": self.stages,
            "damping": self.damping,
            "order": self.order,
        }
