"""The error of a step and the first step size, computed as in SciPy's `solve_ivp`."""

import math

from keras import ops

from keras_cool import backend
from keras_cool.optimizers.entrywise import larger, smaller


def error_norm(error, step, point, new_point, rtol, atol, dtype, preconditioner=None):
    r"""Returns the root mean square of the error in units of the tolerance, over all weights.

    \[ \Big( \frac{1}{n} \sum_k \Big( \frac{h\, e_k}{\mathrm{atol} + \mathrm{rtol} \max(|p_k|,
       |p^{\mathrm{new}}_k|)} \Big)^2 \Big)^{1/2} \]

    Args:
        error: List of tensors, the weighted sum of the stages' gradients with the error weights.
        step: Number, the step size `h`.
        point: List of tensors.
        new_point: List of tensors, the point after the step.
        rtol: Float, the relative tolerance.
        atol: Float, the absolute tolerance.
        dtype: String, the dtype of step sizes.
        preconditioner: List of tensors, a diagonal to multiply the error with, or `None`.

    Returns:
        Scalar tensor of that dtype. It is not finite if the new point is not.
    """
    if preconditioner is not None:
        error = [d * e for d, e in zip(preconditioner, error, strict=True)]
    total = sum(
        ops.cast(backend.updates.sum_of_squared_errors(e, p, q, rtol, atol), dtype)
        for e, p, q in zip(error, point, new_point, strict=True)
    )
    return step * ops.sqrt(total / _count(point))


def first_step_size(evaluate, point, first, order, rtol, atol, dtype, preconditioner=None):
    """Chooses the first step size by a trial step of Euler's method.

    Args:
        evaluate: A function: `evaluate(point)` returns `(loss, gradients)`. It is called once.
        point: List of tensors.
        first: List of tensors, the gradients at the point.
        order: Integer, the order of the error estimate.
        rtol: Float, the relative tolerance.
        atol: Float, the absolute tolerance.
        dtype: String, the dtype of step sizes.
        preconditioner: List of tensors, a diagonal to multiply gradients with, or `None`.

    Returns:
        Scalar tensor of that dtype.

    Reference:
        Hairer, Nørsett and Wanner, 1993, "Solving Ordinary Differential Equations I", 2nd edition,
        section II.4, "Starting step size"; SciPy, `scipy/integrate/_ivp/common.py`,
        `select_initial_step`.
    """
    flow = _flow(first, preconditioner)
    scale = [atol + rtol * ops.abs(p) for p in point]
    d0 = _root_mean_square([p / s for p, s in zip(point, scale, strict=True)], dtype)
    d1 = _root_mean_square([f / s for f, s in zip(flow, scale, strict=True)], dtype)
    h0 = ops.where((d0 < 1e-5) | (d1 < 1e-5), ops.full_like(d0, 1e-6), 0.01 * d0 / d1)
    trial = [p - ops.cast(h0, p.dtype) * f for p, f in zip(point, flow, strict=True)]
    _, gradients = evaluate(trial)
    change = [
        (a - b) / s for a, b, s in zip(_flow(gradients, preconditioner), flow, scale, strict=True)
    ]
    d2 = _root_mean_square(change, dtype) / h0
    steepest = larger(d1, d2)
    flat = larger(1e-3 * h0, 1e-6)
    h1 = ops.where(steepest <= 1e-15, flat, (0.01 / steepest) ** (1 / (order + 1)))
    h1 = ops.where(ops.isfinite(h1), h1, h0)  # the loss is not finite at the trial point
    return smaller(100 * h0, h1)


def _flow(gradients, preconditioner):
    if preconditioner is None:
        return gradients
    return [d * g for d, g in zip(preconditioner, gradients, strict=True)]


def _root_mean_square(tensors, dtype):
    total = sum(ops.cast(ops.sum(ops.square(t)), dtype) for t in tensors)
    return ops.sqrt(total / _count(tensors))


def _count(tensors):
    return sum(math.prod(t.shape) for t in tensors)
