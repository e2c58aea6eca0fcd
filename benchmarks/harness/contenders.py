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
    for_games: bool = False  # whether it is made for games, and left out of descents
    for_full_batches: bool = False  # whether it is made for descents on the full batch
    keeps_last_stage: bool = False  # whether it does on a full batch, at a forward pass a step

    def fits(self, task):
        """Whether it is made for such a task."""
        if self.for_full_batches:
            return task.batch_size is None and not task.game
        return task.game or not self.for_games

    def full_batch(self, task):
        """Whether it keeps its last stage, and computes a loss without a gradient each step."""
        return self.keeps_last_stage and task.batch_size is None


def one_setting(task):
    return [{}]


def adams(task):
    return [{"beta_1": b} for b in task.beta_1]


def over_adam(optimizer):
    return lambda task, setting: optimizer(keras.optimizers.Adam(**setting))


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


def quasi_newton(method):
    """Ten iterations a step, whose first evaluation is once more the last one of the step before;
    it counts."""
    return lambda task, setting: method(max_iterations=10, **setting)


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
        adams,
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
        keeps_last_stage=True,
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
    Contender(
        "Extragradient",
        True,
        SGD_RATES,
        one_setting,
        lambda task, setting: kc.optimizers.Extragradient(0.1),
        lambda setting: 2,
        for_games=True,
    ),
    Contender(
        "Extragradient over Adam",
        True,
        ADAM_RATES,
        adams,
        over_adam(kc.optimizers.Extragradient),
        lambda setting: 2,
        for_games=True,
    ),
    Contender(
        "Optimistic",
        True,
        SGD_RATES,
        one_setting,
        lambda task, setting: kc.optimizers.OptimisticGradient(0.1),
        lambda setting: 1,
        for_games=True,
    ),
    Contender(
        "Optimistic over Adam",
        True,
        ADAM_RATES,
        adams,
        over_adam(kc.optimizers.OptimisticGradient),
        lambda setting: 1,
        for_games=True,
    ),
    Contender(
        "L-BFGS",
        True,
        None,
        lambda task: [{"memory": m} for m in (10, 30)],
        quasi_newton(kc.optimizers.LBFGS),
        lambda setting: 2,
        for_full_batches=True,
    ),
    Contender(
        "SSBroyden",
        True,
        None,
        one_setting,
        quasi_newton(kc.optimizers.SSBroyden),
        lambda setting: 2,
        for_full_batches=True,
    ),
]
