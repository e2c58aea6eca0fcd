"""The tables of `essay_claim.py`, from the curves of its runs."""

import math

import numpy as np

from harness.essay_claim_curves import chosen, readings, spent_until, validation_at

LEVELS = (0.1, 0.03, 0.01, 0.003)  # training losses at which methods are compared
SPEED_LEVEL = 0.01
WITHOUT = {0.0: "without dropout"}


def in_words(setting):
    """A setting as it stands in the tables."""
    words = [f"{name}={value:g}" for name, value in setting.items() if name != "atol"]
    return ", ".join(w for w in words if w != "max_step=inf")


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
