"""Which average of the weights generalises best, on right labels and where some are wrong.

A dense net learns scikit-learn's digits by SGD with momentum, with all training labels right and
with 30 % of them wrong; accuracy is that on right labels. The last weights of training are compared
with Keras' moving average (`use_ema=True`), `Lookahead` and `WeightAveraging`, at equal steps. The
learning rate of each, and the moving average's momentum, are chosen by the validation part, on
seeds of their own.

    KERAS_BACKEND=jax python benchmarks/averaging.py --output benchmarks/results/averaging-jax.md

A seed decides the weights, the order of the images and which labels are wrong. `--quick` shows that
it runs.
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

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
)

EPOCHS, LABELS = 40, {"all labels right": 0.0, "30% of the labels wrong": 0.3}


def momentum(rate, **options):
    return keras.optimizers.SGD(rate, momentum=0.9, **options)


def at_the_end(run):
    return run.validation[-1], run.at_the_end()


def at_the_best_epoch(run):
    return max(run.validation), run.at_the_best_epoch()


class Contender(NamedTuple):
    """Weights that training ends with: how they are made, and what is read off a run."""

    name: str
    optimizer: Callable  # rate, steps, setting -> the optimizer
    settings: tuple = ({},)
    callbacks: Callable = lambda epochs: []
    read: Callable = at_the_end  # a run -> accuracies of the validation and the test part
    has_schedule: bool = False  # whether each rate takes an optimizer of its own


CONTENDERS = [
    Contender("last weights", lambda rate, steps: momentum(rate)),
    Contender(
        "weights of the best epoch", lambda rate, steps: momentum(rate), read=at_the_best_epoch
    ),
    Contender(
        "last weights, cosine decay",
        lambda rate, steps: momentum(keras.optimizers.schedules.CosineDecay(rate, steps)),
        has_schedule=True,
    ),
    Contender(
        "Keras' moving average",
        lambda rate, steps, **setting: momentum(rate, use_ema=True, **setting),
        tuple({"ema_momentum": m} for m in (0.99, 0.999)),
    ),
    Contender("Lookahead", lambda rate, steps: kc.optimizers.Lookahead(momentum(rate))),
    Contender(
        "WeightAveraging from 75% on",
        lambda rate, steps: momentum(rate),
        callbacks=lambda epochs: [kc.callbacks.WeightAveraging(round(0.75 * epochs))],
    ),
]


def row(contender, wrong, rates, seeds, epochs):
    """Tunes a contender and gives its row of the table."""
    best = None
    for setting in contender.settings:
        trainable = None
        for rate in rates:
            if trainable is None or contender.has_schedule:
                optimizer = contender.optimizer(rate, epochs * STEPS_AN_EPOCH, **setting)
                trainable = Trainable(optimizer, epochs, contender.callbacks(epochs))
            settable = None if contender.has_schedule else rate
            runs = [trainable.run(seed, wrong, settable) for seed in TUNING_SEEDS]
            found = np.mean([contender.read(run)[0] for run in runs])
            if best is None or found > best[0]:
                best = found, {**setting, "rate": rate}, trainable, settable
    _, chosen, trainable, rate = best
    accuracies = [contender.read(trainable.run(seed, wrong, rate))[1] for seed in seeds]
    words = ", ".join(f"{name} {value:.3g}" for name, value in chosen.items())
    return f"| {contender.name} | {words} | {mean_and_spread(accuracies)} |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a run")
    parser.add_argument("--output", type=pathlib.Path, help="write the tables to this file too")
    parser.add_argument("--quick", action="store_true", help="4 epochs, one seed, little tuning")
    arguments = parser.parse_args()
    seeds, epochs, rates = range(arguments.seeds), arguments.epochs, RATES
    options = f"--seeds {arguments.seeds} --epochs {epochs}"
    if arguments.quick:
        seeds, epochs, rates, options = range(1), 4, RATES[1:2], "--quick"
    note = (
        f"{TRAINING} digits in batches of {BATCH}, {epochs * STEPS_AN_EPOCH} steps. A cell is the "
        f"accuracy on right labels of the test part in per cent, the mean over {len(seeds)} seeds, "
        "and the lowest and highest. The best epoch is that of the highest validation accuracy."
    )
    lines = [machine(), "", f"`{settings()}python benchmarks/averaging.py {options}`", "", note]
    for title, wrong in LABELS.items():
        lines += ["", f"## {title.capitalize()}", "", "| | tuned to | accuracy |"]
        lines.append("| --- | --- | --- |")
        for contender in CONTENDERS:
            lines.append(row(contender, wrong, rates, seeds, epochs))
            print(lines[-1], flush=True)
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
