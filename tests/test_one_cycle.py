"""`OneCycle`: its formula in NumPy, and the scheduler of PyTorch."""

import numpy as np
import pytest

from keras_cool.optimizers.schedules import OneCycle
from support.learning_rates import RAMPS, rates, rates_of_torch


@pytest.mark.parametrize("shape", RAMPS)
@pytest.mark.parametrize(("steps", "pct_start"), [(20, 0.3), (33, 0.41)])
def test_one_cycle_rises_and_falls(steps, pct_start, shape):
    t, top = np.arange(steps + 5), pct_start * steps - 1
    first, last = 0.7 / 25, 0.7 / 25 / 1e4
    rise = first + (0.7 - first) * RAMPS[shape](np.clip(t / top, 0, 1))
    fall = 0.7 + (last - 0.7) * RAMPS[shape](np.clip((t - top) / (steps - 1 - top), 0, 1))
    ours = rates(OneCycle(0.7, steps, pct_start, shape=shape), steps + 5)
    np.testing.assert_allclose(ours, np.where(t <= top, rise, fall), rtol=2e-5)


@pytest.mark.backend("torch")
@pytest.mark.parametrize("shape", RAMPS)
@pytest.mark.parametrize(("steps", "pct_start"), [(20, 0.3), (33, 0.41)])
def test_the_same_as_the_scheduler_of_torch(steps, pct_start, shape):
    strategy = {"cosine": "cos", "linear": "linear"}[shape]
    settings = {"max_lr": 0.7, "total_steps": steps, "pct_start": pct_start}
    expected = rates_of_torch("OneCycleLR", steps, anneal_strategy=strategy, **settings)
    ours = rates(OneCycle(0.7, steps, pct_start, shape=shape), steps)
    np.testing.assert_allclose(ours, expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: OneCycle(None, 4), TypeError, "`maximum` of OneCycle is a number"),
        (lambda: OneCycle(0.1, 20, pct_start=30), ValueError, "`pct_start` of OneCycle"),
        (lambda: OneCycle(0.1, 20, div_factor=0), ValueError, "`div_factor` of OneCycle"),
        (lambda: OneCycle(0.1, 3), ValueError, "steps=3 and pct_start=0.3 .* over 0.9 updates"),
    ],
)
def test_arguments_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()
