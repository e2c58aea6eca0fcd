"""`Ralston`: a quarter of the first gradient and three of the second, against NumPy."""

import numpy as np
import pytest

import keras_cool as kc
from support.gradient_flows import POISSON, compiled, train, weights_of


def test_two_thirds_of_a_step_on_the_gradient_counts_three_times(float64):
    p, h = POISSON.start, 0.1
    model = compiled(POISSON, kc.optimizers.Ralston(h))
    logs = train(model, POISSON, 10)
    for _ in range(10):
        first = POISSON.gradient(p)
        p = p - h * (first + 3 * POISSON.gradient(p - 2 * h / 3 * first)) / 4
    np.testing.assert_allclose(weights_of(model), p, rtol=1e-12)
    assert logs["gradient_evaluations"][-1] == 2 * 10


def test_of_its_order_it_alone_meets_a_condition_of_the_third():
    """That of the tree with two leaves; the other one no method of two stages meets. Ralston, 1962,
    chose it for the least bound on the error of a step."""
    sums = {"Ralston": 1 / 3, "Heun": 1 / 2, "Midpoint": 1 / 4}
    for name, expected in sums.items():
        tableau = getattr(kc.optimizers, name).tableau
        assert np.dot(tableau.b, np.square(tableau.c)) == pytest.approx(expected, rel=1e-14)
