"""The tables of `essay_claim.py`, from the curves of its runs."""

import math
from typing import NamedTuple

import numpy as np

LEVELS = (0.1, 0.03, 0.01, 0.003)  # training losses at which methods are compared
SPEED_LEVEL = 0.01
WITHOUT = {0.0: "without dropout"}


class Curves(NamedTuple):
    """What a run showed at its start and after each epoch, an array each."""

    steps: np.ndarray
    evaluations: np.ndarray
    training_loss: np.ndarray
    validation_loss: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray


class Reading(NamedTuple):
    """A run within a budget: at its end, and where the validation loss was lowest, at its best."""

    training_loss: float
    validation_loss: float
    best_validation_loss: float
    test_loss_at_best: float
    test_accuracy: float
    test_accuracy_at_best: float


def in_words(setting):
    """A setting as it stands in the tables."""
    words = [f"{name}={value:g}" for name, value in setting.items() if name != "atol"]
    return ", ".join(w for w in words if w != "max_step=inf")


def read(curves, axis, budget):
    """The last epoch within a budget of steps or evaluations, and the best one until then."""
    spent = getattr(curves, axis)
    last = int(np.searchsorted(spent, budget, side="right")) - 1
    best = int(np.argmin(curves.validation_loss[: last + 1]))
    return Reading(
        curves.training_loss[last],
        curves.validation_loss[last],
        curves.validation_loss[best],
        curves.test_loss[best],
        curves.test_accuracy[last],
        curves.test_accuracy[best],
    )


def readings(runs, axis, budget):
    """A dictionary of settings and `Reading`s whose fields are arrays, a value a seed."""
    return {
        setting: Reading(*np.array([read(c, axis, budget) for c in curves]).T)
        for setting, curves in runs.items()
    }


def chosen(of_settings):
    """The setting whose best validation loss is lowest, in the mean over the seeds."""
    return min(of_settings, key=lambda s: of_settings[s].best_validation_loss.mean())


def spread(values, form=".3f"):
    """The median over the seeds, and the lowest and highest."""
    cells = [
        f"{value:{form}}" if math.isfinite(value) else "diverged"
        for value in (np.median(values), min(values), max(values))
    ]
    return "{} ({} to {})".format(*cells)


def name_of(dropout):
    return WITHOUT.get(dropout, f"dropout {dropout:g}")


def tables(results):
    """All lines below the command."""
    some = next(iter(next(iter(results.values())).values()))
    budget = int(next(iter(some.values()))[0].steps[-1])
    seeds = len(next(iter(some.values())))
    note = (
        f"A cell is the median over {seeds} seeds, and the lowest and highest. `atol` is a "
        "thousandth of `rtol`. A setting is the one whose validation loss, at its lowest within "
        "the budget, is lowest in the mean over the seeds. Best is the epoch of that lowest "
        "validation loss, last the end of the budget. Above SGD's: in how many seeds, each "
        "with the same start and the same parts."
    )
    lines = [note, ""]
    for axis, title in (("steps", "steps"), ("evaluations", "gradient evaluations")):
        for dropout, of_methods in results.items():
            lines += [f"## {budget} {title} each, {name_of(dropout)}", ""]
            lines += budget_table(of_methods, axis, budget)
    for dropout, of_methods in results.items():
        lines += [f"## Validation loss at equal training loss, {name_of(dropout)}", ""]
        lines += level_table(of_methods, budget)
    for dropout, of_methods in results.items():
        lines += [f"## To a training loss of {SPEED_LEVEL:g}, fastest, {name_of(dropout)}", ""]
        lines += speed_table(of_methods, SPEED_LEVEL)
    for dropout, of_methods in results.items():
        lines += [f"## Every setting after {budget} steps, {name_of(dropout)}", ""]
        lines += grid_table(of_methods, budget)
    return lines[:-1]


def header(*cells):
    return [f"| {' | '.join(cells)} |", f"|{' --- |' * len(cells)}"]


def seeds_above(values, reference):
    """In how many seeds a value is above that of SGD, where both have one."""
    if values is reference:
        return ""
    both = np.isfinite(values) & np.isfinite(reference)
    return f"{np.sum(values[both] > reference[both])} of {np.sum(both)}"


def budget_table(of_methods, axis, budget):
    lines = header(
        "method",
        "setting",
        "training loss, last",
        "validation loss, last",
        "above SGD's",
        "validation loss, best",
        "above SGD's",
        "test loss, best",
        "test accuracy, best, %",
    )
    reference = None
    for name, runs in of_methods.items():
        of_settings = readings(runs, axis, budget)
        setting = chosen(of_settings)
        r = of_settings[setting]
        reference = r if reference is None else reference
        cells = [
            name,
            setting,
            spread(r.training_loss, ".2g"),
            spread(r.validation_loss),
            seeds_above(r.validation_loss, reference.validation_loss),
            spread(r.best_validation_loss),
            seeds_above(r.best_validation_loss, reference.best_validation_loss),
            spread(r.test_loss_at_best),
            spread(100 * r.test_accuracy_at_best, ".1f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def validation_at(curves, level):
    """The validation loss when the training loss first falls to a level, between two epochs by a
    line in its logarithm; not a number where it does not."""
    below = np.flatnonzero(curves.training_loss <= level)
    if len(below) == 0 or below[0] == 0:
        return math.nan
    i = below[0]
    before, after = np.log(curves.training_loss[i - 1 : i + 1])
    share = (before - math.log(level)) / (before - after)
    return (1 - share) * curves.validation_loss[i - 1] + share * curves.validation_loss[i]


def level_table(of_methods, budget):
    heads = [cell for level in LEVELS for cell in (f"at {level:g}", "above SGD's")]
    lines, reference = header("method", "setting", *heads), {}
    for name, runs in of_methods.items():
        setting = chosen(readings(runs, "steps", budget))
        cells = []
        for level in LEVELS:
            values = np.array([validation_at(c, level) for c in runs[setting]])
            found = values[np.isfinite(values)]
            note = "" if len(found) == len(values) else f", {len(found)} of {len(values)} seeds"
            cells.append(f"{spread(found)}{note}" if len(found) else "not reached")
            cells.append(seeds_above(values, reference.setdefault(level, values)))
        lines.append(f"| {name} | {setting} | {' | '.join(cells)} |")
    return [*lines, ""]


def spent_until(curves, axis, level):
    """The steps or gradient evaluations until the training loss is at most `level`."""
    below = np.flatnonzero(curves.training_loss <= level)
    return getattr(curves, axis)[below[0]] if len(below) else math.inf


def speed_table(of_methods, level):
    lines = header("method", "gradient evaluations", "setting", "steps", "setting")
    for name, runs in of_methods.items():
        cells = [name]
        for axis in ("evaluations", "steps"):
            medians = {
                setting: np.median([spent_until(c, axis, level) for c in curves])
                for setting, curves in runs.items()
            }
            fastest = min(medians, key=medians.get)
            cells += [f"{medians[fastest]:.0f}", fastest]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def grid_table(of_methods, budget):
    lines = header(
        "method",
        "setting",
        "gradient evaluations",
        "training loss, last",
        "validation loss, last",
        "validation loss, best",
        "test accuracy, last, %",
    )
    for name, runs in of_methods.items():
        for setting, r in readings(runs, "steps", budget).items():
            evaluations = np.median([c.evaluations[-1] for c in runs[setting]])
            cells = [
                name,
                setting,
                f"{evaluations:.0f}",
                spread(r.training_loss, ".2g"),
                spread(r.validation_loss),
                spread(r.best_validation_loss),
                spread(100 * r.test_accuracy, ".1f"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]
