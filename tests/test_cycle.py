"""`Cycle`: its formulas in NumPy, and the scheduler of PyTorch."""

import numpy as np
import pytest

from keras_cool.optimizers.schedules import Cycle
from support.learning_rates import rates, rates_of_torch


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("steps", [6, 7])
def test_triangular_cycle_is_the_one_of_smith(steps, decay):
    t, stepsize = np.arange(40), steps / 2
    cycle = np.floor(1 + t / (2 * stepsize))  # the code in section 3.2 of the paper
    height = np.maximum(0, 1 - np.abs(t / stepsize - 2 * cycle + 1))
    expected = 0.01 + (0.2 - 0.01) * height * decay ** (cycle - 1)
    np.testing.assert_allclose(rates(Cycle(0.01, 0.2, steps, decay=decay), 40), expected, rtol=2e-5)


def test_cosine_cycle():
    t = np.arange(30)
    expected = 0.01 + (0.2 - 0.01) * (1 - np.cos(2 * np.pi * t / 9)) / 2
    np.testing.assert_allclose(rates(Cycle(0.01, 0.2, 9, "cosine"), 30), expected, rtol=2e-5)


def test_cycles_far_on_are_as_exact_as_the_first():
    schedule, start = Cycle(0.0, 1.0, 1000), 10**8
    assert [round(float(schedule(start + t)), 6) for t in (0, 1, 500, 999)] == [0, 0.002, 1, 0.002]


@pytest.mark.backend("torch")
@pytest.mark.parametrize(("mode", "decay"), [("triangular", 1.0), ("triangular2", 0.5)])
def test_the_same_as_the_scheduler_of_torch(mode, decay):
    settings = {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 4, "mode": mode}
    expected = rates_of_torch("CyclicLR", 30, **settings)
    np.testing.assert_allclose(rates(Cycle(0.01, 0.2, 8, decay=decay), 30), expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Cycle(0.5, 0.1, 4), ValueError, "`maximum` of Cycle is at least 0.5.*0.1"),
        (lambda: Cycle(0.1, 0.5, 4, "linear"), ValueError, "'triangular' or 'cosine'"),
        (lambda: Cycle(0.1, 0.5, 4, decay=2), ValueError, "`decay` of Cycle"),
    ],
)
def test_arguments_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()
