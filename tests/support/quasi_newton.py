"""Quasi-Newton methods beside SciPy: problems, evaluations down to a target, and random pairs."""

import warnings

import keras
import numpy as np
from keras import ops
from scipy.optimize import minimize

from keras_cool.backend import scalars
from support.minima import AtTarget, Digits, Quadratic, Rosenbrock, minimise, model_of

RNG = np.random.default_rng(0)
PROBLEMS = {
    "rosenbrock-2": Rosenbrock(2),
    "rosenbrock-100": Rosenbrock(100),
    "rosenbrock-6": Rosenbrock(6),
    "quadratic": Quadratic(20, 1e6, 1e-8),
    "digits": Digits(),
}


def random_pairs(count, size):
    """Steps and changes of the gradient of a quadratic, whose products are positive."""
    root = RNG.normal(size=(size, size))
    steps = RNG.normal(size=(count, size))
    return steps, steps @ (root @ root.T + np.eye(size))


def tensors(*arrays):
    return [ops.convert_to_tensor(a) for a in arrays]


def inverse_hessian_of(optimizer, steps, changes, kept=lambda i: True):
    """The inverse Hessian of a new optimizer and its state after some pairs."""
    optimizer.build([keras.Variable(np.zeros(steps.shape[1]), name="w")])
    hessian = optimizer._hessian
    state = hessian.load(optimizer._trainable_variables, scalars.number(True, "bool"))
    for i, (s, y) in enumerate(zip(steps, changes, strict=True)):
        s_y, s_b_s = scalars.known(*tensors(s @ y, 1.3 * s @ y))
        is_kept = scalars.number(kept(i), "bool")
        state = hessian.updated(state, *tensors(s, y), s_y, s_b_s, is_kept)
    return hessian, state


def evaluations_of_scipy(method, problem, start=None, **options):
    """How many evaluations SciPy needs down to the target, from the problem's start or another."""
    count, found = 0, None

    def function(w):
        nonlocal count
        count += 1
        return problem.value_and_gradient(w)

    def look(w):
        nonlocal found
        if found is None and problem.value_and_gradient(w)[0] <= problem.target:
            found = count

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minimize(
            function,
            problem.start if start is None else start,
            jac=True,
            method=method,
            callback=look,
            options={"maxiter": 5000, "gtol": 0, **options},
        )
    return found


def evaluations_of_ours(method, problem):
    one_iteration = {"max_iterations": 1, "gradient_tolerance": 0, "change_tolerance": 0}
    model = model_of(problem.loss, problem.start, method(**one_iteration))
    counter = AtTarget(problem.target)
    minimise(model, epochs=5000, callbacks=[counter])
    return counter.evaluations
