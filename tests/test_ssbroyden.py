"""`SSBroyden`: its matrix against the formulas, and where it pays."""

import numpy as np
from keras import ops

import keras_cool as kc
from support.quasi_newton import PROBLEMS, evaluations_of_ours, inverse_hessian_of, random_pairs

SSBroyden = kc.optimizers.SSBroyden


def broyden(h, s, y, tau=1.0, phi=1.0):
    h_y = h @ y
    v = s / (s @ y) - h_y / (y @ h_y)
    h = h - np.outer(h_y, h_y) / (y @ h_y) + phi * (y @ h_y) * np.outer(v, v)
    return h / tau + np.outer(s, s) / (s @ y)


def self_scaled(h, s, y, s_b_s):
    """Urbán, Stefanou and Pons 2024, equations (13) to (23)."""
    b, hk, n = s_b_s / (s @ y), y @ h @ y / (s @ y), len(s)
    a = b * hk - 1
    rho = min(1, hk * (1 - np.sqrt(a / (1 + a))))
    theta = max((rho - 1) / a, min(1 / rho, (1 - b) / b))
    sigma = 1 + theta * a
    root = sigma ** (1 / (1 - n))
    bound = min(1, 1 / b)
    tau = min(bound * root, sigma) if theta <= 0 else bound * min(root, 1 / theta)
    return broyden(h, s, y, tau, (1 - theta) / (1 + a * theta))


def test_the_matrix_is_that_of_the_self_scaled_family(float64):
    # What stands for `s^T B s` makes the scale, whichever it is, by Cauchy and Schwarz.
    steps, changes = random_pairs(4, 5)
    _, state = inverse_hessian_of(SSBroyden(), steps, changes)
    expected = np.eye(5)
    for s, y in zip(steps, changes, strict=True):
        if 1.3 * (y @ expected @ y) <= s @ y:
            expected = broyden(expected, s, y)
        else:
            expected = self_scaled(expected, s, y, 1.3 * s @ y)
    np.testing.assert_allclose(ops.convert_to_numpy(state.inverse), expected, rtol=1e-7)


def test_it_needs_fewer_evaluations_than_bfgs(float64):
    problem = PROBLEMS["digits"]
    theirs = evaluations_of_ours(kc.optimizers.BFGS, problem)
    assert evaluations_of_ours(SSBroyden, problem) < theirs / 2
