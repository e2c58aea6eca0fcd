"""`Midpoint`: the gradient in the middle of a plain step, against NumPy in float64."""

import keras
import numpy as np

import keras_cool as kc
from support.gradient_flows import POISSON, compiled, train, weights_of


def test_the_gradient_half_a_step_on(float64):
    p, h = POISSON.start, 0.1
    model = compiled(POISSON, kc.optimizers.Midpoint(h))
    logs = train(model, POISSON, 10)
    for _ in range(10):
        p = p - h * POISSON.gradient(p - h / 2 * POISSON.gradient(p))
    np.testing.assert_allclose(weights_of(model), p, rtol=1e-12)
    assert logs["gradient_evaluations"][-1] == 2 * 10


def test_what_follows_no_flow_has_plain_trial_points():
    model = compiled(POISSON, kc.optimizers.Midpoint(keras.optimizers.Lion(0.2)))
    train(model, POISSON, 1)
    half = POISSON.start - 0.1 * POISSON.gradient(POISSON.start)
    expected = POISSON.start - 0.2 * np.sign(POISSON.gradient(half))
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-5)
