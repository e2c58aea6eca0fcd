"""`Tsit5`: the coefficients as Tsitouras printed them, and what they gain over `RK45`."""

import numpy as np

import keras_cool as kc
from support.gradient_flows import POISSON, PROBLEMS, compiled, exact_flow, train, weights_of

# Tsitouras, "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
# assumption", Computers & Mathematics with Applications 62 (2011), table 1.
NODES = [0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1]
WEIGHTS = [
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0,
]


def test_nodes_and_weights_are_those_of_the_paper():
    tableau = kc.optimizers.Tsit5.tableau
    np.testing.assert_allclose(tableau.c, NODES, rtol=1e-12)
    np.testing.assert_allclose(tableau.b, WEIGHTS, rtol=1e-12)
    np.testing.assert_allclose(tableau.a[-1], WEIGHTS[:-1], rtol=1e-12)


def test_the_last_gradient_of_a_step_is_the_first_of_the_next(float64):
    problem = PROBLEMS["net"]
    model = compiled(problem, kc.optimizers.Tsit5(0.1, full_batch=True))
    logs = train(model, problem, 20)
    assert logs["gradient_evaluations"][-1] == 1 + 6 * (20 + logs["rejected_tries"][-1])
    exact = exact_flow(problem, logs["flow_time"][-1])
    assert np.linalg.norm(weights_of(model) - exact) < 1e-3 * np.linalg.norm(exact)


def test_its_error_is_below_that_of_rk45(float64):
    """The purpose of its coefficients; at the same step size and as many gradients."""
    exact, errors = exact_flow(POISSON, 1.0), {}
    for name in ("Tsit5", "RK45"):
        model = compiled(POISSON, getattr(kc.optimizers, name)(1 / 16, adaptive=False))
        train(model, POISSON, 16)
        errors[name] = np.linalg.norm(weights_of(model) - exact)
    assert errors["Tsit5"] < errors["RK45"] / 2
