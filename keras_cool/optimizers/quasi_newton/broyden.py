"""`BFGS` and `SSBroyden`: quasi-Newton methods with a dense inverse Hessian."""

import math

import keras

from keras_cool.backend import scalars
from keras_cool.optimizers.full_batch import check_matrix
from keras_cool.optimizers.quasi_newton.dense import DenseInverse
from keras_cool.optimizers.quasi_newton.engine import QuasiNewton
from keras_cool.optimizers.steering_numbers import smaller

divided, where = scalars.divided, scalars.where


class DenseQuasiNewton(QuasiNewton):
    """A quasi-Newton method with a dense inverse Hessian. A subclass gives the factors."""

    def __init__(
        self,
        max_iterations=20,
        max_evaluations=None,
        line_search="strong_wolfe",
        gradient_tolerance=1e-7,
        change_tolerance=1e-9,
        first_step=None,
        c1=1e-4,
        c2=0.9,
        name=None,
    ):
        super().__init__(
            max_iterations=max_iterations,
            max_evaluations=max_evaluations,
            line_search=line_search,
            gradient_tolerance=gradient_tolerance,
            change_tolerance=change_tolerance,
            first_step=first_step,
            c1=c1,
            c2=c2,
            name=name,
        )

    def _make_inverse_hessian(self, variables, dtype):
        size = sum(math.prod(v.shape) for v in variables)
        check_matrix(
            size,
            dtype,
            f"{type(self).__name__} keeps a matrix of the weights by the weights: of the {{size}} "
            "weights of this model it would take {memory}, and a step several times that.",
        )
        return DenseInverse(self, variables, dtype, self._factors)


@keras.saving.register_keras_serializable(package="keras_cool")
class BFGS(DenseQuasiNewton):
    r"""BFGS: the quasi-Newton method with a dense inverse Hessian, for up to 10,000 weights.

    It trains on the full batch as `LBFGS` does, which describes steps, line search and logs. The
    inverse Hessian \(H\) is a matrix, the identity at first. With the step \(s\) of an iteration
    and the change \(y\) of the gradient it becomes

    \[ (1 - \rho\, s y^T) H (1 - \rho\, y s^T) + \rho\, s s^T, \qquad \rho = 1 / y^T s. \]

    As \(H\) may be far from the right size at first, an iteration first tries a step by which the
    loss would fall about as far as in the last one, and at most 1, as SciPy does.

    The state holds a matrix of the weights by the weights, a step up to three.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.BFGS(), loss="mse")
    >>> x = keras.random.normal((64, 3))
    >>> history = model.fit(x, x[:, :1] - 1, batch_size=64, epochs=10, verbose=0)
    >>> model.evaluate(x, x[:, :1] - 1, verbose=0) < 1e-9
    True

    Args:
        max_iterations: Integer, the number of iterations of a training step. Defaults to 20.
        max_evaluations: Integer, the number of gradient evaluations after which a training step
            begins no other iteration. Defaults to `None`: `1.25 * max_iterations + 1`.
        line_search: `"strong_wolfe"`.
        gradient_tolerance: Float. Training has converged when no entry of the gradient is larger in
            magnitude. Defaults to `1e-7`.
        change_tolerance: Float. Training has converged when an iteration moves no weight further
            than this, times the largest weight if that is larger than 1. Defaults to `1e-9`.
        first_step: Float, the step size that is tried first along the first gradient. Defaults to
            `None`: `min(1, 1 / norm(gradient))`.
        c1: Float, the Wolfe constant of sufficient decrease. Defaults to `1e-4`.
        c2: Float, the Wolfe constant of curvature. Defaults to 0.9.
        name: String or `None`, the name of the optimizer. Defaults to `"bfgs"`.

    Raises:
        ValueError: If an argument is out of its range, not `0 < c1 < c2 < 1`, or, at the first
            step, the model has more than 10,000 weights to train.

    Reference:
        Nocedal and Wright, 2006, "Numerical Optimization", algorithm 6.1.
    """

    @staticmethod
    def _factors(pair):
        return 1.0, 1.0


@keras.saving.register_keras_serializable(package="keras_cool")
class SSBroyden(DenseQuasiNewton):
    r"""The self-scaled Broyden method, with a dense inverse Hessian, for up to 10,000 weights.

    It trains on the full batch as `LBFGS` does, which describes steps, line search and logs. The
    inverse Hessian \(H\) is a matrix, the identity at first. With the step \(s\) of an iteration,
    the change \(y\) of the gradient and \(v = s / y^T s - H y / y^T H y\) it becomes

    \[ \frac{1}{\tau} \Big( H - \frac{H y\, y^T H}{y^T H y} + \phi\, (y^T H y)\, v v^T \Big)
       + \frac{s s^T}{y^T s}. \]

    \(\tau = \phi = 1\) is BFGS. Here both are chosen at each update from
    \(b = s^T H^{-1} s / y^T s\) and \(h = y^T H y / y^T s\), so that the eigenvalues of \(H\) stay
    near each other. On physics-informed nets this reaches losses orders of magnitude below those of
    L-BFGS.

    The state holds a matrix of the weights by the weights, a step up to three.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.SSBroyden(), loss="mse")
    >>> x = keras.random.normal((64, 3))
    >>> history = model.fit(x, x[:, :1] - 1, batch_size=64, epochs=10, verbose=0)
    >>> model.evaluate(x, x[:, :1] - 1, verbose=0) < 1e-9
    True

    Args:
        max_iterations: Integer, the number of iterations of a training step. Defaults to 20.
        max_evaluations: Integer, the number of gradient evaluations after which a training step
            begins no other iteration. Defaults to `None`: `1.25 * max_iterations + 1`.
        line_search: `"strong_wolfe"`.
        gradient_tolerance: Float. Training has converged when no entry of the gradient is larger in
            magnitude. Defaults to `1e-7`.
        change_tolerance: Float. Training has converged when an iteration moves no weight further
            than this, times the largest weight if that is larger than 1. Defaults to `1e-9`.
        first_step: Float, the step size that is tried first along the first gradient. Defaults to
            `None`: `min(1, 1 / norm(gradient))`.
        c1: Float, the Wolfe constant of sufficient decrease. Defaults to `1e-4`.
        c2: Float, the Wolfe constant of curvature. Defaults to 0.9.
        name: String or `None`, the name of the optimizer. Defaults to `"ss_broyden"`.

    Raises:
        ValueError: If an argument is out of its range, not `0 < c1 < c2 < 1`, or, at the first
            step, the model has more than 10,000 weights to train.

    Reference:
        Al-Baali, Spedicato and Maggioni, 2014, "Broyden's quasi-Newton methods for a nonlinear
        system of equations and unconstrained optimization: a review and open problems"; Urbán,
        Stefanou and Pons, 2024, "Unveiling the optimization process of physics informed neural
        networks: how accurate and competitive can PINNs be?", equations (13) to (23).
    """

    @staticmethod
    def _factors(pair):
        one = 0.0 * pair.s_y + 1.0
        h, b = divided(pair.y_h_y, pair.s_y), divided(pair.s_b_s, pair.s_y)
        a = h * b - 1.0
        a = where(a > 0, a, 0.0 * a)  # Cauchy and Schwarz, but for rounding
        c = scalars.square_root(divided(a, a + 1.0))
        low = smaller(one, h * (1.0 - c))
        theta = smaller(divided(one, low), divided(1.0 - b, b))
        lowest = where(a > 0, divided(low - 1.0, a), 0.0 * a)
        theta = where(theta > lowest, theta, lowest)
        sigma = 1.0 + theta * a
        root = scalars.power(sigma, 1.0 / (1.0 - max(pair.weights, 2)))
        bound = smaller(one, divided(one, b))
        scale = where(
            theta <= 0,
            smaller(bound * root, sigma),
            bound * smaller(root, divided(one, theta)),
        )
        return scale, divided(1.0 - theta, sigma)
