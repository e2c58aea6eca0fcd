"""`RK23`: a step without control, its shared stage, and its PI controller, by SciPy's numbers."""

import numpy as np
from scipy.integrate import RK23
from scipy.integrate._ivp.rk import rk_step

import keras_cool as kc
from support.gradient_flows import PROBLEMS, compiled, train, weights_of


def test_without_control_a_step_is_that_of_scipy(float64):
    """Three gradients, as the fourth is for the error alone."""
    problem, h, p = PROBLEMS["net"], 0.3, PROBLEMS["net"].start
    model = compiled(problem, kc.optimizers.RK23(h, adaptive=False))
    logs = train(model, problem, 5)
    stages = np.empty((4, p.size))
    for _ in range(5):
        p, _ = rk_step(
            lambda t, q: -problem.gradient(q), 0, p, -problem.gradient(p), h,
            RK23.A, RK23.B, RK23.C, stages,
        )  # fmt: skip
    np.testing.assert_allclose(weights_of(model), p, rtol=1e-12)
    assert logs["gradient_evaluations"][-1] == 3 * 5


def test_pi_controller(float64):
    """Against the formula, with the stages and the error of SciPy's RK23."""
    problem, k = PROBLEMS["net"], 3
    model = compiled(problem, kc.optimizers.RK23(0.1, controller="PI"))
    sizes = train(model, problem, 8)["step_size"]

    p, h, previous, expected = problem.start, 0.1, 1.0, []
    stages = np.empty((4, p.size))
    while len(expected) < 8:
        rejected = False
        while True:
            new, _ = rk_step(
                lambda t, q: -problem.gradient(q), 0, p, -problem.gradient(p), h,
                RK23.A, RK23.B, RK23.C, stages,
            )  # fmt: skip
            scale = 1e-6 + 1e-3 * np.maximum(np.abs(p), np.abs(new))
            error = np.sqrt(np.mean((h * RK23.E @ stages / scale) ** 2))
            if error < 1:
                break
            h, rejected = h * max(0.2, 0.9 * error ** (-1 / k)), True
        expected.append(h)
        factor = 0.9 * error ** (-0.7 / k) * previous ** (0.4 / k)
        h *= np.clip(factor, 0.2, 1 if rejected else 10)
        p, previous = new, error
    np.testing.assert_allclose(sizes, expected, rtol=1e-9)
