"""Step size control, step for step against SciPy's `solve_ivp`."""

import numpy as np
import pytest
from gradient_flows import PROBLEMS, compiled, train, weights_of
from scipy.integrate import RK23, RK45

import keras_cool as kc

SCIPY = {"RK23": RK23, "RK45": RK45}


def scipy_steps(method, problem, steps, **settings):
    """The sizes of the first accepted steps, the evaluations and the end, by SciPy."""
    solver = SCIPY[method](
        lambda t, p: -problem.gradient(p), 0.0, problem.start, t_bound=1e6, **settings
    )
    sizes = []
    for _ in range(steps):
        assert solver.step() is None
        sizes.append(solver.step_size)
    return np.array(sizes), solver


@pytest.mark.parametrize("settings", [{}, {"rtol": 1e-6, "atol": 1e-8, "first_step": 0.5}])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", SCIPY)
def test_the_same_steps_as_scipy(method, problem, settings, float64):
    problem = PROBLEMS[problem]
    sizes, solver = scipy_steps(method, problem, 40, **settings)
    model = compiled(problem, getattr(kc.optimizers, method)(**settings))
    logs = train(model, problem, 40)
    np.testing.assert_allclose(logs["step_size"][:25], sizes[:25], rtol=1e-3)
    np.testing.assert_allclose(logs["flow_time"][-1], solver.t, rtol=1e-3)
    np.testing.assert_allclose(weights_of(model), solver.y, rtol=1e-3, atol=1e-6)
    assert logs["skipped_steps"][-1] == 0


@pytest.mark.parametrize("method", SCIPY)
def test_full_batch_takes_the_evaluations_of_scipy(method, float64):
    """The last stage is the first one of the next step; a change of the weights is noticed."""
    problem = PROBLEMS["net"]
    _, solver = scipy_steps(method, problem, 20)
    model = compiled(problem, getattr(kc.optimizers, method)(full_batch=True))
    logs = train(model, problem, 20)
    assert logs["gradient_evaluations"][-1] == solver.nfev
    np.testing.assert_allclose(weights_of(model), solver.y, rtol=1e-6, atol=1e-8)
