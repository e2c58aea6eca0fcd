"""The optimizers that are compared, as data: how each is made, and what it is tuned over."""

from collections.abc import Callable
from typing import NamedTuple

import keras

import keras_cool as kc

SGD_RATES = [4.0**k for k in range(2, -6, -1)]  # 16 to 1e-3
ADAM_RATES = [0.3 * 4.0**k for k in range(0, -6, -1)]  # 0.3 to 3e-4


class Contender(NamedTuple):
    name: str
    ours: bool
    rates: list | None  # the coarse grid of the rate; None: it chooses its step sizes itself
    settings: Callable  # task -> what else it is tuned over, a list of dictionaries
    optimizer: Callable  # task, setting -> the optimizer
    evaluations: Callable  # setting -> gradient evaluations of a step, at least
    scale: Callable = lambda setting: 1.0  # what the rates of the grid are multiplied with

    def full_batch(self, task):
        """Whether it keeps its last stage, and computes a loss without a gradient each step."""
        return self.rates is None and task.batch_size is None


def one_setting(task):
    return [{}]


def stages(*choices):
    return lambda task: [{"stages": s} for s in choices]


def chebyshev(over):
    return lambda task, setting: kc.optimizers.RungeKuttaChebyshev(over(), **setting)


def stable_steps(setting):
    """How much longer a step of the method may be than one of gradient descent."""
    return kc.optimizers.RungeKuttaChebyshev(0.1, **setting).stability_limit / 2


def rk45(task, setting):
    tolerances = {"rtol": setting["rtol"], "atol": setting["rtol"] / 10}
    return kc.optimizers.RK45(**tolerances, full_batch=task.batch_size is None)


CONTENDERS = [
    Contender(
        "SGD", False, SGD_RATES, one_setting, lambda t, s: keras.optimizers.SGD(0.1), lambda s: 1
    ),
    Contender(
        "momentum",
        False,
        SGD_RATES,
        lambda task: [{"momentum": b} for b in task.momentum],
        lambda task, setting: keras.optimizers.SGD(0.1, **setting),
        lambda setting: 1,
    ),
    Contender(
        "Adam",
        False,
        ADAM_RATES,
        lambda task: [{"beta_1": b} for b in task.beta_1],
        lambda task, setting: keras.optimizers.Adam(**setting),
        lambda setting: 1,
    ),
    Contender(
        "Heun", True, SGD_RATES, one_setting, lambda t, s: kc.optimizers.Heun(0.1), lambda s: 2
    ),
    Contender(
        "RK4", True, SGD_RATES, one_setting, lambda t, s: kc.optimizers.RK4(0.1), lambda s: 4
    ),
    Contender(
        "RK45",
        True,
        None,
        lambda task: [{"rtol": r} for r in (1.0, 0.1, 0.01)],
        rk45,
        lambda setting: 6,
    ),
    Contender(
        "RK4 over Adam",
        True,
        ADAM_RATES,
        one_setting,
        lambda task, setting: kc.optimizers.RK4("adam"),
        lambda setting: 4,
    ),
    Contender(
        "Chebyshev",
        True,
        SGD_RATES,
        stages(5, 10, 20),
        chebyshev(lambda: 0.1),
        lambda setting: setting["stages"],
        stable_steps,
    ),
    Contender(
        "Chebyshev over momentum",
        True,
        SGD_RATES,
        stages(3, 6),
        chebyshev(lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
        lambda setting: setting["stages"],
        stable_steps,
    ),
    Contender(
        "Chebyshev over Adam",
        True,
        ADAM_RATES,
        stages(3, 6),
        chebyshev(lambda: keras.optimizers.Adam(0.1)),
        lambda setting: setting["stages"],
    ),
]
