"""`BFGS`: its matrix against the formula, its evaluations against SciPy's."""

import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.quasi_newton import (
    PROBLEMS,
    evaluations_of_ours,
    evaluations_of_scipy,
    inverse_hessian_of,
    random_pairs,
)

BFGS = kc.optimizers.BFGS


def test_the_matrix_is_that_of_bfgs(float64):
    steps, changes = random_pairs(4, 5)
    _, state = inverse_hessian_of(BFGS(), steps, changes)
    expected = np.eye(5)
    for s, y in zip(steps, changes, strict=True):
        left = np.eye(5) - np.outer(s, y) / (s @ y)
        expected = left @ expected @ left.T + np.outer(s, s) / (s @ y)
    np.testing.assert_allclose(ops.convert_to_numpy(state.inverse), expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["rosenbrock-2", "quadratic"])
def test_bfgs_needs_no_more_evaluations_than_scipy(name, float64):
    problem = PROBLEMS[name]
    theirs = evaluations_of_scipy("BFGS", problem)
    assert evaluations_of_ours(BFGS, problem) <= 1.1 * theirs + 3
