"""The order of every Runge-Kutta method, against SciPy's solution of the gradient flow."""

import numpy as np
import pytest
from gradient_flows import POISSON, compiled, exact_flow, set_weights, train, weights_of

import keras_cool as kc

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
