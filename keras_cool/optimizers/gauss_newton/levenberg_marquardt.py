"""`LevenbergMarquardt`: damped Gauss-Newton steps, for sums of squared residuals."""

import keras
from keras import ops

from keras_cool.backend import scalars, vectors
from keras_cool.optimizers.checked_arguments import count, number
from keras_cool.optimizers.full_batch import FullBatchMethod
from keras_cool.optimizers.gauss_newton.iterations import ERRORS, REASONS, Iterations


@keras.saving.register_keras_serializable(package="keras_cool")
class LevenbergMarquardt(FullBatchMethod):
    r"""The Levenberg-Marquardt method, for losses that are sums of squared residuals.

    With the residuals \(r\), whose squares add up to the loss, and their Jacobian \(J\), an
    iteration goes from \(p\) to \(p + h\), where

    \[ (J^T J + \mu) h = -J^T r. \]

    With fewer residuals than weights it solves \(h = -J^T (J J^T + \mu)^{-1} r\) instead, which is
    the same. The gain ratio is the decrease of the loss over that of \(\|r + J h\|^2\). By it the
    damping \(\mu\) falls, to a third at most, or grows, two times, four times and so on, until the
    loss is lower. A try whose loss is higher or not finite never reaches the weights.

    One training step runs up to `max_iterations` iterations on its batch, in one compiled loop. The
    damping goes on from step to step and is saved with the model.

    The losses of Keras that are sums of squares (`"mse"`, `"msle"`, `"squared_hinge"`), and the
    regulariser `"l2"`, have residuals by themselves, under any weights and masks. A loss of one's
    own hands them over by `keras_cool.squared_residuals`.

    Give it the full batch: `fit(..., batch_size=len(x))`. A Jacobian takes a reverse pass over the
    batch for each residual, or one and a half for each weight, whichever are fewer. With
    `microbatch_size` in `compile` it is made of parts, each of which takes passes for its own
    residuals alone: with 1,000 samples and `microbatch_size=20` the Jacobian costs 20 passes over
    the batch, instead of 1,000. The normal equations are added up.

    When a tolerance is met, `converged` in the logs is 1, and `fit` stops after the epoch and says
    why. `levenberg_marquardt_iterations` in the logs counts the iterations, `damping` is the last
    \(\mu\), and `gradient_evaluations` counts one for each Jacobian and one for each step.

    A step holds the Jacobian, of a micro-batch if there are such, and three matrices of the weights
    by the weights, or of the residuals by the residuals.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.LevenbergMarquardt(), loss="mse")
    >>> x = keras.random.normal((64, 3))
    >>> history = model.fit(x, x[:, :1] - 1, batch_size=64, verbose=0)
    >>> model.evaluate(x, x[:, :1] - 1, verbose=0) < 1e-9
    True

    Args:
        damping: Float, the first damping, in units of the largest entry on the diagonal of
            \(J^T J\). Defaults to `1e-3`.
        max_iterations: Integer, the number of iterations of a training step. Defaults to 20.
        gradient_tolerance: Float. Training has converged when no entry of the gradient is larger in
            magnitude. Defaults to `1e-7`.
        change_tolerance: Float. Training has converged when an iteration moves no weight further
            than this, times the largest weight if that is larger than 1. Defaults to `1e-9`.
        name: String or `None`, the name of the optimizer. Defaults to `"levenberg_marquardt"`.

    Raises:
        ValueError: If an argument is out of its range; at the first step, if the loss has no
            residuals, or other terms than their squares, or the matrix would have more than 10,000
            rows; and after an epoch, if a square has a negative factor.

    Reference:
        Marquardt, 1963, "An algorithm for least-squares estimation of nonlinear parameters";
        Nielsen, 1999, "Damping parameter in Marquardt's method", IMM-REP-1999-05 (the rule for
        the damping).
    """

    ITERATIONS = "levenberg_marquardt_iterations"
    LENGTH = "its damping sets the length of a step"
    REASONS = REASONS
    ERRORS = ERRORS

    def __init__(
        self,
        damping=1e-3,
        max_iterations=20,
        gradient_tolerance=1e-7,
        change_tolerance=1e-9,
        name=None,
    ):
        method = type(self).__name__
        settings = {
            "damping": number(method, "damping", damping, "above 0", lambda v: v > 0),
            "max_iterations": count(method, "max_iterations", max_iterations),
        }
        tolerances = {
            "gradient_tolerance": gradient_tolerance,
            "change_tolerance": change_tolerance,
        }
        for key, value in tolerances.items():
            settings[key] = number(method, key, value, "at least 0", lambda v: v >= 0)
        super().__init__(settings, name)
        self._damping, self._growth = self._number("damping"), self._number("growth")

    def estimate_gradient(self, evaluate, point):
        loss, gradients = evaluate(point)
        self._begin(evaluate, gradients)
        start, gradient = (vectors.flattened(t, self._dtype) for t in (point, gradients))
        iterations = Iterations(evaluate, point, self._dtype, **self._settings)
        loss, damping, growth = scalars.known(
            ops.cast(loss, self._dtype),
            ops.convert_to_tensor(self._damping.value),
            ops.maximum(self._growth.value, 2.0),
        )
        end = iterations.run(loss, start, damping, growth)
        self._keep(end.iterations + 1, end.iterations, end.why)
        self._damping.assign(end.damping)
        self._growth.assign(end.growth)
        # Not finite if the first loss or gradient was not.
        invalid = 0 * (loss + vectors.largest(gradient))
        return self._estimate(evaluate, point, end.point, invalid)

    def step_logs(self):
        return {**super().step_logs(), "damping": self._damping.value + 0}
