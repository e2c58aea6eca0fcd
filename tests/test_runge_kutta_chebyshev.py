"""The Runge-Kutta-Chebyshev methods: order, range of stability, coefficients, errors."""

import keras
import numpy as np
import pytest
from numpy.polynomial import Chebyshev

import keras_cool as kc
from support.gradient_flows import (
    POISSON,
    PROBLEMS,
    Quadratic,
    compiled,
    exact_flow,
    set_weights,
    train,
    weights_of,
)

RKC = kc.optimizers.RungeKuttaChebyshev


@pytest.mark.parametrize(("order", "stages"), [(1, 4), (2, 5)])
def test_order(order, stages, float64):
    exact = exact_flow(POISSON, 1.0)
    model = compiled(POISSON, RKC(0.1, stages, order=order))
    errors = []
    for steps in (64, 128):
        set_weights(model, POISSON.start)
        model.optimizer.learning_rate = 1 / steps
        train(model, POISSON, steps)
        errors.append(np.linalg.norm(weights_of(model) - exact))
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.1


def theoretical_limit(stages, damping, order):
    """From NumPy's Chebyshev polynomials: `(w0 + 1) / w1`, where `w1 = T' / T''` or `T / T'`."""
    w0 = 1 + damping / stages**2
    polynomial = Chebyshev.basis(stages)
    top, bottom = polynomial.deriv(order - 1), polynomial.deriv(order)
    return (w0 + 1) * bottom(w0) / top(w0)


@pytest.mark.parametrize(
    ("order", "stages", "damping", "formula"),
    [
        (1, 5, 0.05, (2 - 4 / 3 * 0.05) * 25),
        (1, 12, 0.1, (2 - 4 / 3 * 0.1) * 144),
        (2, 6, 2 / 13, 2 / 3 * 35 * (1 - 2 / 15 * 2 / 13)),
        (2, 12, 2 / 13, 0.653 * 144),
    ],
)
def test_range_of_stability(order, stages, damping, formula, float64):
    """One step on many curvatures at once gives the stability polynomial."""
    limit = theoretical_limit(stages, damping, order)
    assert abs(limit / formula - 1) < 0.02
    curvatures = np.linspace(0.01, 1.3, 400) * limit
    problem = Quadratic(np.diag(np.sqrt(curvatures)), np.zeros((400, 1)), np.ones(400))
    model = compiled(problem, RKC(1.0, stages, damping, order))
    assert abs(model.optimizer.stability_limit / limit - 1) < 1e-9
    logs = train(model, problem, 1)
    assert logs["gradient_evaluations"] == [stages]
    unstable = curvatures[np.abs(weights_of(model)) > 1]
    assert abs(unstable.min() / limit - 1) < 0.02


def golden(problem, step, steps, stages, damping, order):
    """The method in NumPy, float64, as Sommeijer, Shampine and Verwer, 1998, write it: (2.1)."""
    w0 = 1 + damping / stages**2
    t, dt, ddt = (
        [
            Chebyshev.basis(j).deriv(n)(w0) if n else Chebyshev.basis(j)(w0)
            for j in range(stages + 1)
        ]
        for n in range(3)
    )
    if order == 1:
        w1 = t[stages] / dt[stages]
        b = [1 / value for value in t]
    else:
        w1 = dt[stages] / ddt[stages]
        b = [0, 0, *(ddt[j] / dt[j] ** 2 for j in range(2, stages + 1))]
        b[0] = b[1] = b[2]
    p = problem.start
    for _ in range(steps):
        first = -problem.gradient(p)
        first_mu = w1 / w0 if order == 1 else b[1] * w1
        y = [p, p + first_mu * step * first]
        for j in range(2, stages + 1):
            mu, nu, mu_tilde = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], 2 * b[j] * w1 / b[j - 1]
            gamma_tilde = -(1 - b[j - 1] * t[j - 1]) * mu_tilde
            y.append(
                (1 - mu - nu) * p
                + mu * y[j - 1]
                + nu * y[j - 2]
                - mu_tilde * step * problem.gradient(y[j - 1])
                + gamma_tilde * step * first
            )
        p = y[-1]
    return p


@pytest.mark.parametrize(("order", "damping"), [(1, 0.05), (2, 2 / 13)])
def test_the_same_numbers_on_every_backend(order, damping):
    """A hundred steps in float32 against NumPy in float64."""
    problem = PROBLEMS["net"]
    model = compiled(problem, RKC(0.05, stages=5, order=order))
    train(model, problem, 100)
    expected = golden(problem, 0.05, 100, 5, damping, order)
    assert np.linalg.norm(weights_of(model) - expected) / np.linalg.norm(expected) < 1e-5


def test_one_stage_is_gradient_descent(float64):
    model = compiled(POISSON, RKC(0.1, stages=1, damping=0))
    train(model, POISSON, 1)
    np.testing.assert_allclose(
        weights_of(model), POISSON.start - 0.1 * POISSON.gradient(POISSON.start), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 3}, "`order` is 1 or 2"),
        ({"stages": 0}, "at least 1 for order 1"),
        ({"stages": 1, "order": 2}, "at least 2 for order 2"),
        ({"stages": 2.5}, "whole number"),
        ({"damping": -0.1}, "at least 0"),
        ({"damping": float("nan")}, "at least 0"),
        ({"optimizer": "lion"}, "none along a gradient flow"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        RKC(**{"optimizer": 0.1, **arguments})


def test_config_round_trip():
    original = RKC("adam", stages=7, order=2)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(original))
    assert (copy.stages, copy.damping, copy.order) == (7, None, 2)
    assert copy.stability_limit == original.stability_limit
