"""The coefficients of the Runge-Kutta-Chebyshev methods of first and second order."""

import math
from typing import NamedTuple


class ChebyshevCoefficients(NamedTuple):
    r"""The three-term recurrence of the displacements \(d_j = (p - p_j) / h\).

    \(d_0 = 0\), \(d_1 = \tilde\mu_1 g_0\), \(d_j = \mu_j d_{j-1} + \nu_j d_{j-2} + \tilde\mu_j
    g_{j-1} + \tilde\gamma_j g_0\). Each list has an entry for each stage, from \(j = 1\).
    """

    mu: list[float]
    nu: list[float]
    mu_tilde: list[float]
    gamma_tilde: list[float]
    stability_limit: float  # the largest step size times curvature


def first_order(stages, damping):
    """Returns the coefficients of order 1: van der Houwen and Sommeijer, 1980."""
    w0 = 1 + damping / stages**2
    t, dt, _ = chebyshev_polynomials(stages, w0)
    w1 = t[stages] / dt[stages]
    rest = range(2, stages + 1)
    return ChebyshevCoefficients(
        mu=[0.0, *(2 * w0 * t[j - 1] / t[j] for j in rest)],
        nu=[0.0, *(-t[j - 2] / t[j] for j in rest)],
        mu_tilde=[w1 / w0, *(2 * w1 * t[j - 1] / t[j] for j in rest)],
        gamma_tilde=[0.0] * stages,
        stability_limit=(w0 + 1) / w1,
    )


def second_order(stages, damping):
    """Returns the coefficients of order 2: Sommeijer, Shampine and Verwer, 1998, section 2."""
    w0 = 1 + damping / stages**2
    t, dt, ddt = chebyshev_polynomials(stages, w0)
    w1 = dt[stages] / ddt[stages]
    b = [ddt[j] / dt[j] ** 2 if j > 1 else ddt[2] / dt[2] ** 2 for j in range(stages + 1)]
    a = [1 - b[j] * t[j] for j in range(stages + 1)]
    rest = range(2, stages + 1)
    mu_tilde = [b[1] * w1, *(2 * b[j] * w1 / b[j - 1] for j in rest)]
    return ChebyshevCoefficients(
        mu=[0.0, *(2 * b[j] * w0 / b[j - 1] for j in rest)],
        nu=[0.0, *(-b[j] / b[j - 2] for j in rest)],
        mu_tilde=mu_tilde,
        gamma_tilde=[0.0, *(-a[j - 1] * mu_tilde[j - 1] for j in rest)],
        stability_limit=(w0 + 1) / w1,
    )


def chebyshev_polynomials(degree, x):
    """Returns the Chebyshev polynomials of degree 0 to `degree` at `x`, and two derivatives."""
    t, dt, ddt = [1.0, x], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, degree + 1):
        ddt.append(4 * dt[-1] + 2 * x * ddt[-1] - ddt[-2])
        dt.append(2 * t[-1] + 2 * x * dt[-1] - dt[-2])
        t.append(2 * x * t[-1] - t[-2])
    return t, dt, ddt


def check_arguments(stages, damping, order):
    """Raises a `ValueError` for a method that does not exist."""
    if order not in (1, 2):
        raise ValueError(f"`order` is 1 or 2. Got {order!r}.")
    whole = isinstance(stages, int) and not isinstance(stages, bool)
    if not whole or stages < order:
        raise ValueError(
            f"`stages` has to be a whole number of at least {order} for order {order}. Got "
            f"{stages!r}. For example: RungeKuttaChebyshev(0.1, stages=10)."
        )
    number = isinstance(damping, (int, float)) and not isinstance(damping, bool)
    if not number or not math.isfinite(damping) or damping < 0:
        raise ValueError(
            f"`damping` has to be a finite number of at least 0. Got {damping!r}. Leave it out for "
            "the usual one."
        )
