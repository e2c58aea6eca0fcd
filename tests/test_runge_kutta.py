"""Every Runge-Kutta method: its order, its numbers, and what a stage that is not finite does."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.gradient_flows import (
    POISSON,
    PROBLEMS,
    compiled,
    exact_flow,
    set_weights,
    train,
    weights_of,
)

ORDERS = {"Heun": 2, "Midpoint": 2, "Ralston": 2, "RK4": 4, "RK23": 3, "RK45": 5, "Tsit5": 5}


def make(name, rate):
    method = getattr(kc.optimizers, name)
    return method(rate, **({} if name in FIXED else {"adaptive": False}))


FIXED = ("Heun", "Midpoint", "Ralston", "RK4")


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_order(name, order, float64):
    problem, time = POISSON, 1.0
    exact = exact_flow(problem, time)
    model = compiled(problem, make(name, 0.1))
    errors = []
    for steps in (32, 64):
        set_weights(model, problem.start)
        model.optimizer.learning_rate = time / steps
        train(model, problem, steps)
        errors.append(np.linalg.norm(weights_of(model) - exact))
    slope = np.log2(errors[0] / errors[1])
    assert abs(slope - order) < 0.1


def golden(tableau, problem, step, steps):
    """The method in NumPy, float64."""
    p = problem.start
    for _ in range(steps):
        stages = []
        for row in tableau.a:
            offset = sum((a * g for a, g in zip(row, stages)), np.zeros_like(p))
            stages.append(problem.gradient(p - step * offset))
        p = p - step * sum(b * g for b, g in zip(tableau.b, stages))
    return p


@pytest.mark.parametrize("name", ORDERS)
def test_the_same_numbers_on_every_backend(name):
    """A hundred steps in float32 against NumPy in float64."""
    problem = PROBLEMS["net"]
    model = compiled(problem, make(name, 0.05))
    train(model, problem, 100)
    expected = golden(getattr(kc.optimizers, name).tableau, problem, 0.05, 100)
    assert np.linalg.norm(weights_of(model) - expected) / np.linalg.norm(expected) < 1e-5


class Evaluation:
    """Stands for an evaluation: gradients of ones, and one that is not finite."""

    variables = ()

    def __init__(self, bad, value):
        self.bad, self.value, self.count = bad, value, 0

    def __call__(self, point):
        bad = self.count == self.bad
        self.count += 1
        gradients = [np.ones(p.shape, "float32") for p in point]
        if bad:
            gradients[-1][0] = self.value
        return 0.0, [ops.convert_to_tensor(g) for g in gradients]


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("name", ORDERS)
def test_a_stage_that_is_not_finite_is_never_lost(name, value):
    """Not where its weight is zero either: the step has to be skipped."""
    point = [ops.ones((2,)), ops.ones((3, 2))]
    for bad in range(make(name, 0.1).evaluations):
        method = make(name, 0.1)
        estimate = method.estimate_gradient(Evaluation(bad, value), point)
        assert not all(np.isfinite(ops.convert_to_numpy(e)).all() for e in estimate), bad
    estimate = method.estimate_gradient(Evaluation(None, value), point)
    assert all(np.allclose(ops.convert_to_numpy(e), 1) for e in estimate)


@pytest.mark.parametrize("tableau", [None, "rk4", [[0.0]]])
def test_what_is_no_tableau_is_told_so(tableau):
    with pytest.raises(TypeError, match=r"takes a `Tableau`.*RungeKutta\(0\.1, Tableau\(a="):
        kc.optimizers.RungeKutta(0.1, tableau)


@pytest.mark.multi_optimizer
def test_a_multi_optimizer_is_refused():
    inner = keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match=r"no one step size.*Heun\('adam'\)"):
        kc.optimizers.Heun(inner)


def test_every_way_to_run_a_step_gives_the_same_numbers():
    ways = [{"run_eagerly": True}, {}]
    if keras.backend.backend() != "torch":
        ways += [{"jit_compile": True}, {"steps_per_execution": 2}]
    if keras.backend.backend() == "tensorflow":
        ways += [{"jit_compile": False}]
    ends = []
    for way in ways:
        model = compiled(PROBLEMS["net"], kc.optimizers.RK23(1.0, full_batch=True), **way)
        x, y = (np.tile(a, (2, 1)) for a in PROBLEMS["net"][:2])
        logs = model.fit(x, y, batch_size=12, shuffle=False, verbose=0).history
        ends.append((weights_of(model), logs["gradient_evaluations"]))
    for weights, evaluations in ends[1:]:
        np.testing.assert_allclose(weights, ends[0][0], rtol=1e-4, atol=1e-6)
        assert evaluations == ends[0][1]


def test_injection():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    kc.optimizers.RK23(0.1).inject(model)
    logs = model.fit(np.ones((4, 3)), np.ones((4, 1)), epochs=3, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]
    assert logs["gradient_evaluations"][0] >= 4
