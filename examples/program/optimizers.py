"""Optimizers by their names on the command line: `heun`, `adam`, `heun:adam`."""

import keras

import keras_cool as kc
from program.errors import UserError, one_line

METHODS = {
    "heun": kc.optimizers.Heun,
    "midpoint": kc.optimizers.Midpoint,
    "ralston": kc.optimizers.Ralston,
    "rk4": kc.optimizers.RK4,
    "rk23": kc.optimizers.RK23,
    "rk45": kc.optimizers.RK45,
    "tsit5": kc.optimizers.Tsit5,
    "chebyshev": kc.optimizers.RungeKuttaChebyshev,
}
CONTROLLED = ("rk23", "rk45", "tsit5")  # they choose their step sizes, the first one too
METHOD_LEARNING_RATE = 0.4
NOT_BY_NAME = ("Optimizer", "MultiOptimizer", "LossScaleOptimizer")  # they need other arguments
OPTIMIZERS = {
    name.lower(): value
    for name, value in vars(keras.optimizers).items()
    if isinstance(value, type)
    and issubclass(value, keras.optimizers.Optimizer)
    and name not in NOT_BY_NAME
}
NOTATION = (
    f"a METHOD over plain gradient descent ({', '.join(METHODS)}), an OPTIMIZER of Keras "
    f"({', '.join(sorted(OPTIMIZERS))}), or METHOD:OPTIMIZER for the one over the other (heun:adam)"
)


def method_of(name: str) -> str:
    """Gives what stands before the colon, or the whole name."""
    return name.lower().partition(":")[0]


def make_optimizer(
    name: str, learning_rate: float | None, accumulate: int = 1, warmup: int = 0
) -> keras.optimizers.Optimizer:
    """Makes the optimizer that `--optimizer` names.

    A rate of `None` is its default; with `warmup` it grows from 0 over so many updates.
    """
    method, colon, inner = name.lower().rpartition(":")
    if inner in METHODS and not colon:
        rate = None if inner in CONTROLLED else METHOD_LEARNING_RATE
        return METHODS[inner](warmed_up(learning_rate or rate, warmup))
    if inner not in OPTIMIZERS or (colon and method not in METHODS):
        raise UserError(f"--optimizer {name} is not known; give {NOTATION}")
    rate = learning_rate or float(OPTIMIZERS[inner]().learning_rate)
    optimizer = OPTIMIZERS[inner](learning_rate=warmed_up(rate, warmup))
    if accumulate > 1:
        return kc.optimizers.Accumulate(optimizer, accumulate)
    try:
        return METHODS[method](optimizer) if colon else optimizer
    except ValueError as error:
        raise UserError(f"--optimizer {name}: {one_line(error)}") from error


def warmed_up(
    rate: float | None, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule | None:
    """Gives the rate, or a schedule that grows from 0 to it."""
    return kc.optimizers.schedules.Warmup(rate, steps) if steps else rate
