"""How exact a soft batch is: keras_cool's ways, Keras' own and optax's beside each other.

Run it as `KERAS_BACKEND=jax python benchmarks/soft_batch_table.py`; `--output FILE` also writes the
table. `tests/test_soft_batch_table.py` checks the columns of keras_cool.
"""

import argparse
import importlib.util
import pathlib

import keras

import keras_cool as kc
from harness import soft_batch_rows as table
from harness.timing import machine, settings

BUILT_IN = "Keras' gradient_accumulation_steps"
MULTI_STEPS = "optax.MultiSteps"


def in_microbatches(row):
    return table.weights_after(row, kc.Model, table.LARGE, microbatch_size=table.SMALL)


def accumulated_with_mixin(row):
    return table.weights_after(row, kc.Model, table.SMALL, wrap=accumulate)


def accumulated(row):
    callbacks = [kc.callbacks.FinishWindow()]
    return table.weights_after(row, keras.Model, table.SMALL, wrap=accumulate, callbacks=callbacks)


def accumulated_by_keras(row):
    return table.weights_after(row, keras.Model, table.SMALL, wrap=accumulate_by_keras)


def accumulate(optimizer):
    return kc.optimizers.Accumulate(optimizer, table.COUNT)


def accumulate_by_keras(optimizer):
    config = {**optimizer.get_config(), "gradient_accumulation_steps": table.COUNT}
    return type(optimizer).from_config(config)


WAYS = {
    "microbatch_size": in_microbatches,
    "Accumulate, mixin": accumulated_with_mixin,
    "Accumulate": accumulated,
    BUILT_IN: accumulated_by_keras,
}


class Footnotes:
    """Numbers reasons in the order in which they are met."""

    def __init__(self):
        self._reasons = []

    def cell(self, text, reason):
        """A cell with the mark of its reason."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        return f"{text} <sup>{self._reasons.index(reason) + 1}</sup>"

    def lines(self):
        return [
            f"{i}. {reason[0].upper()}{reason[1:]}." for i, reason in enumerate(self._reasons, 1)
        ]


def difference_of(way, row, expected, large_batch_in_optax):
    """The relative difference of all weights to the large batch, or the reason that there is none:
    `(difference, None)` or `(None, (word, reason))`."""
    several_points = hasattr(row.optimizer(), "estimate_gradient")
    if way in row.inexact:
        return None, ("cannot", row.inexact[way])
    if way in (BUILT_IN, MULTI_STEPS) and several_points:
        return None, ("cannot", table.SEVERAL_POINTS)
    if way != MULTI_STEPS:
        weights, _ = WAYS[way](row)
        return table.relative_difference(weights, expected), None
    return large_batch_in_optax(row, expected)


def optax_column():
    """The function of the column of `optax.MultiSteps`, or `None` without JAX or optax."""
    if keras.backend.backend() != "jax" or importlib.util.find_spec("optax") is None:
        return None
    from harness import optax_training  # it imports jax and optax

    return optax_training.difference_of_multi_steps


def measure(rows, notes):
    """Gives the lines of the table, and how many rows of each way lie beyond the tolerance."""
    in_optax = optax_column()
    ways = [*WAYS, *([MULTI_STEPS] if in_optax else [])]
    counts = {way: [0, 0] for way in ways}
    lines = [f"| | to reach | {' | '.join(ways)} |", f"| --- | --- |{' --- |' * len(ways)}"]
    for row in rows:
        model_class = kc.Model if hasattr(row.optimizer(), "estimate_gradient") else keras.Model
        expected, _ = table.weights_of_the_large_batch(row, model_class)
        cells = []
        for way in ways:
            difference, absent = difference_of(way, row, expected, in_optax)
            if absent:
                cells.append(notes.cell(*absent))
                continue
            beyond = not difference <= row.tolerance
            counts[way][0] += beyond
            counts[way][1] += 1
            cells.append(f"**{difference:.0e}**" if beyond else f"{difference:.0e}")
        lines.append(f"| {row.name} | {row.tolerance:.0e} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    cells = [f"{beyond} of {measured}" for beyond, measured in counts.values()]
    return [*lines, f"| beyond the tolerance | | {' | '.join(cells)} |"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", action="append", help="a row's name; all rows by default")
    parser.add_argument("--output", type=pathlib.Path, help="write the table to this file too")
    arguments = parser.parse_args()
    notes = Footnotes()
    rows = [row for row in table.ROWS if not arguments.row or row.name in arguments.row]
    experiment = (
        f"{table.COUNT} batches of {table.SMALL} against one of {table.LARGE}, {table.EPOCHS} "
        "epochs of 10 updates, not shuffled: the norm of the difference of all weights over the "
        "norm of the weights. What lies beyond the tolerance of its row is bold."
    )
    lines = [
        machine(),
        "",
        f"`{settings()}python benchmarks/soft_batch_table.py`",
        "",
        experiment,
        "",
        *measure(rows, notes),
        "",
        *notes.lines(),
    ]
    text = "\n".join(lines).rstrip()
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
