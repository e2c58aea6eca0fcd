"""What each callback adds to a step, at its default frequency, against the same step without it.

Run it as `KERAS_BACKEND=jax python benchmarks/callbacks.py`; `--output FILE` also writes the table,
and `--callbacks Rescue PythonMetric` measures those alone.
"""

import argparse
import functools
import pathlib
import shlex
import sys
import typing

import keras
import numpy as np
from step_cost import NETS

import keras_cool as kc
from harness.timing import in_turn, machine, milliseconds, ratio, seconds_an_epoch, settings
from keras_cool.optimizers import schedules

BATCH, PARTS = 16, 4  # samples computed at a time, and how many such make up a soft batch
EPOCHS = 2  # of a round, which is one call of `fit`: 100 steps, the frequency of StepMonitor
LIMIT = "1.05"


class Setup(typing.NamedTuple):
    """A way of training: what every row is with, and what it is compared with."""

    cls: type
    optimizer: typing.Callable
    batch_size: int = BATCH
    options: dict | None = None


def adam():
    return keras.optimizers.Adam(1e-3)


def on_schedule(schedule):
    return lambda: keras.optimizers.Adam(schedule())


def accumulating():
    return kc.optimizers.Accumulate(adam(), PARTS)


SETUPS = {
    "Adam": Setup(keras.Model, adam),
    "Adam(CosineDecay)": Setup(
        keras.Model, on_schedule(lambda: keras.optimizers.schedules.CosineDecay(1e-3, 1000))
    ),
    "microbatch_size": Setup(kc.Model, adam, PARTS * BATCH, {"microbatch_size": BATCH}),
    "Accumulate": Setup(keras.Model, accumulating),
    "Accumulate, mixin": Setup(kc.Model, accumulating),
    "Warmup": Setup(keras.Model, on_schedule(lambda: schedules.Warmup(1e-3, 1000))),
    "Cycle": Setup(keras.Model, on_schedule(lambda: schedules.Cycle(1e-4, 1e-3, 1000))),
    "OneCycle": Setup(keras.Model, on_schedule(lambda: schedules.OneCycle(1e-3, 1000))),
}


class Row(typing.NamedTuple):
    """A callback, as a function of the model, the setup it is in, and the one without it."""

    name: str
    callbacks: typing.Callable
    setup: str = "Adam"
    reference: str = "Adam"


def constant_by_step(value):
    return lambda step: value + 0.0 * step


def schedule(target, **arguments):
    return lambda model: [kc.callbacks.Schedule(target(model), **arguments)]


def loss_variable(model):
    return model.loss.weight


def beta_1(model):
    return model.optimizer, "beta_1"


ROWS = [
    Row("no callback", lambda model: []),
    Row("Schedule, variable, by epoch", schedule(loss_variable, schedule=lambda epoch: 1.0)),
    Row(
        "Schedule, variable, by step",
        schedule(loss_variable, schedule=constant_by_step(1.0), by="step"),
    ),
    Row("Schedule, attribute, by epoch", schedule(beta_1, schedule=lambda epoch: 0.9)),
    Row(
        "Schedule, attribute, by step", schedule(beta_1, schedule=constant_by_step(0.9), by="step")
    ),
    Row("StepMonitor", lambda model: [kc.callbacks.StepMonitor()]),
    Row(
        "GradientNoiseScale",
        lambda model: [kc.callbacks.GradientNoiseScale()],
        "microbatch_size",
        "microbatch_size",
    ),
    Row(
        "GradientNoiseScale",
        lambda model: [kc.callbacks.GradientNoiseScale()],
        "Accumulate, mixin",
        "Accumulate, mixin",
    ),
    Row("FinishWindow", lambda model: [kc.callbacks.FinishWindow()], "Accumulate", "Accumulate"),
    Row(
        "AccumulationSchedule",
        lambda model: [kc.callbacks.AccumulationSchedule({0: PARTS, 3: PARTS})],
        "Accumulate, mixin",
        "Accumulate, mixin",
    ),
    Row("Trajectory", lambda model: [kc.callbacks.Trajectory()]),
    Row("Rescue", lambda model: [kc.callbacks.Rescue()]),
    Row("PythonMetric", lambda model: [kc.callbacks.PythonMetric(lambda model: 0.0, "nothing")]),
    Row("Warmup", lambda model: [], "Warmup", "Adam(CosineDecay)"),
    Row("Cycle", lambda model: [], "Cycle", "Adam(CosineDecay)"),
    Row("OneCycle", lambda model: [], "OneCycle", "Adam(CosineDecay)"),
]


class WeightedLoss(keras.losses.SparseCategoricalCrossentropy):
    """Has a variable, which `Schedule` changes; the loss of every row."""

    def __init__(self):
        super().__init__(from_logits=True)
        self.weight = keras.Variable(1.0, trainable=False, name="weight")

    def call(self, y_true, y_pred):
        return self.weight * super().call(y_true, y_pred)


def make_model(net, setup):
    keras.utils.set_random_seed(0)
    model = NETS[net][0](setup.cls)
    model.compile(setup.optimizer(), loss=WeightedLoss(), **(setup.options or {}))
    return model


def measure(net, row, steps, rounds):
    """Gives a row of the table; times are those of `BATCH` samples."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * steps, *NETS[net][1])).astype("float32")
    y = rng.integers(0, 10, size=len(x))
    sides = {}
    for side, setup, callbacks in (
        ("without", row.reference, lambda model: []),
        ("with", row.setup, row.callbacks),
    ):
        model = make_model(net, SETUPS[setup])
        arguments = (model, callbacks(model), x, y, SETUPS[setup].batch_size, EPOCHS)
        sides[side] = functools.partial(seconds_an_epoch, *arguments)
    seconds = in_turn(sides, rounds)
    median, low, high = ratio(seconds, "with", "without")
    return (
        f"| {net} | {row.name} | {row.reference} | {milliseconds(seconds['with']) / steps:.2f} | "
        f"{median:.3f} | {low:.3f} to {high:.3f} | {LIMIT if row is not ROWS[0] else ''} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50, help="batches of 16 in an epoch")
    parser.add_argument(
        "--rounds", type=int, default=7, help="calls of `fit` that are timed, of each side"
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--callbacks", nargs="+", metavar="NAME", help="rows of these names alone")
    parser.add_argument("--output", type=pathlib.Path, help="write the table to this file too")
    arguments = parser.parse_args()
    names = [row.name.partition(",")[0] for row in ROWS]
    unknown = set(arguments.callbacks or ()) - set(names)
    if unknown:
        parser.error(f"no rows for {sorted(unknown)}; there are {sorted(set(names))}")
    rows = [r for r, name in zip(ROWS, names) if name in (arguments.callbacks or names)]
    lines = [
        machine(),
        "",
        f"`{settings()}python benchmarks/callbacks.py {shlex.join(sys.argv[1:])}`",
        "",
        "| net | callback | against | ms | ratio | quartiles | at most |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines))
    for net in arguments.nets:
        for row in rows:
            lines.append(measure(net, row, arguments.steps, arguments.rounds))
            print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
