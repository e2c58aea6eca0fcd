"""Whether SAM generalises better where labels are wrong, and at what cost.

A dense net learns scikit-learn's digits, with 30 % of the training labels wrong, by SGD with
momentum and by SAM around it; accuracy is that on right labels. SAM is compared at as many
gradient evaluations and at as many steps. The learning rate of each and the rho of each kind of SAM
are chosen together, by the accuracy of the validation part at the end, on seeds of their own.

    KERAS_BACKEND=jax python benchmarks/sharpness.py --output benchmarks/results/sharpness-jax.md

A seed decides the weights, the order of the images and which labels are wrong. `--over adam` takes
Adam in place of momentum, `--quick` shows that it runs.
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import keras

import keras_cool as kc
from harness.timing import machine, settings
from harness.wrong_labels import (
    BATCH,
    RATES,
    STEPS_AN_EPOCH,
    TRAINING,
    TUNING_SEEDS,
    Trainable,
    mean_and_spread,
    validation_accuracy,
)

WRONG, EPOCHS = 0.3, 40
RHOS = (0.05, 0.1, 0.2, 0.5, 1.0)
MIDDLE = slice(1, 4)  # of the rates: those that SAM is tuned over, with each rho
PART = 16  # samples that are perturbed on their own
INNER = {
    "momentum": (lambda: keras.optimizers.SGD(0.1, momentum=0.9), RATES),
    "adam": (lambda: keras.optimizers.Adam(0.1), tuple(rate / 20 for rate in RATES)),
}


class Kind(NamedTuple):
    """A kind of SAM: how it is made, and its gradient evaluations a step."""

    name: str
    arguments: Callable  # steps -> arguments of SAM but rho
    evaluations: float
    rho_factor: float = 1.0
    microbatch_size: int | None = None


KINDS = [
    Kind("SAM", lambda steps: {}, 2),
    Kind("SAM, adaptive", lambda steps: {"adaptive": True}, 2, rho_factor=10),
    Kind("SAM, interval 5", lambda steps: {"interval": 5}, 1.2),
    Kind("SAM from 75 % on", lambda steps: {"start": round(0.75 * steps)}, 1.25),
    Kind(f"SAM per part of {PART}", lambda steps: {"per_part": True}, 2, microbatch_size=PART),
]


def table(rows):
    return [
        "| | tuned to | steps | gradients | accuracy at the end | better in | at the best epoch |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]


def row(name, tuned_to, epochs, runs, alone=None):
    """A row of the table; `alone` are the runs of the inner optimizer on the same seeds."""
    cells = [name, tuned_to, epochs * STEPS_AN_EPOCH, runs[0].evaluations]
    cells.append(mean_and_spread([run.at_the_end() for run in runs]))
    pairs = zip(runs, alone or (), strict=alone is not None)
    better = sum(run.at_the_end() > other.at_the_end() for run, other in pairs)
    cells.append(f"{better} of {len(runs)}" if alone else "")
    cells.append(mean_and_spread([run.at_the_best_epoch() for run in runs]))
    return f"| {' | '.join(map(str, cells))} |"


def compare(name, make_inner, rates, rhos, seeds, epochs):
    """Gives the lines of the tables; `rates` and `rhos` are what is tuned over."""

    def trained(epochs, optimizers, rates, microbatch_size=None):
        """The words for the setting of the highest validation accuracy, and its runs."""
        best = None
        for words, optimizer in optimizers.items():
            trainable = Trainable(optimizer, epochs, microbatch_size=microbatch_size)
            for rate in rates:
                runs = [trainable.run(seed, WRONG, rate) for seed in TUNING_SEEDS]
                found = validation_accuracy(runs)
                if best is None or found > best[0]:
                    best = found, f"rate {rate:.2g}{words}", trainable, rate
        _, words, trainable, rate = best
        return words, epochs, [trainable.run(seed, WRONG, rate) for seed in seeds]

    found = trained(epochs, {"": make_inner()}, rates)
    first, alone = row(name, *found), found[-1]
    print(first, flush=True)
    lines = []
    for title, equal_steps in (("gradient evaluations", False), ("steps", True)):
        rows = [first]
        for kind in KINDS:
            own = epochs if equal_steps else max(1, round(epochs / kind.evaluations))
            arguments = kind.arguments(own * STEPS_AN_EPOCH)
            optimizers = {
                f", rho {rho:g}": kc.optimizers.SAM(make_inner(), rho=rho, **arguments)
                for rho in (kind.rho_factor * rho for rho in rhos)
            }
            found = trained(own, optimizers, rates[MIDDLE], kind.microbatch_size)
            rows.append(row(kind.name, *found, alone))
            print(rows[-1], flush=True)
        lines += [f"## At equal {title}", "", *table(rows)]
    return lines[:-1]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--over", choices=INNER, default="momentum", help="the inner optimizer")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the inner optimizer alone")
    parser.add_argument("--output", type=pathlib.Path, help="write the tables to this file too")
    parser.add_argument("--quick", action="store_true", help="4 epochs, one seed, little tuning")
    arguments = parser.parse_args()
    seeds, epochs = range(arguments.seeds), arguments.epochs
    (make_inner, rates), rhos = INNER[arguments.over], RHOS
    options = f"--over {arguments.over} --seeds {arguments.seeds} --epochs {epochs}"
    if arguments.quick:
        seeds, epochs, rates, rhos = range(1), 4, rates[:2], rhos[1:2]
        options = f"--over {arguments.over} --quick"
    note = (
        f"{TRAINING} digits in batches of {BATCH}, {WRONG:.0%} of the labels wrong. A cell is the "
        f"accuracy on right labels of the test part in per cent, the mean over {len(seeds)} seeds, "
        "and the lowest and highest. Better in: the seeds in which it is above the inner optimizer "
        "alone, both at the end. The best epoch is that of the highest validation accuracy."
    )
    lines = [machine(), "", f"`{settings()}python benchmarks/sharpness.py {options}`", "", note, ""]
    lines += compare(f"{arguments.over} alone", make_inner, rates, rhos, seeds, epochs)
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
