"""What is read off the curves of `essay_claim.py`, and that the docs state its results."""

import math
import re
from pathlib import Path

import numpy as np

from harness.essay_claim_curves import (
    Curves,
    chosen,
    read,
    readings,
    spent_until,
    validation_at,
)
from harness.essay_claim_report import seeds_above

ROOT = Path(__file__).parents[1]


def curves(training, validation, evaluations_a_step=1):
    epochs = np.arange(len(training))
    steps = 10 * epochs
    test = np.array(validation) + 1
    return Curves(
        steps,
        evaluations_a_step * steps,
        np.array(training),
        np.array(validation),
        test,
        0.1 * epochs,
    )


FAST = curves([2.0, 0.1, 0.01, 0.001], [2.0, 0.5, 0.3, 0.4], evaluations_a_step=2)
SLOW = curves([2.0, 0.5, 0.4, 0.3], [2.0, 0.9, 0.8, 0.7])


def test_a_budget_ends_at_its_last_whole_epoch():
    in_steps = read(FAST, "steps", 30)
    assert (in_steps.training_loss, in_steps.validation_loss) == (0.001, 0.4)
    assert (in_steps.best_validation_loss, in_steps.test_loss_at_best) == (0.3, 1.3)
    in_evaluations = read(FAST, "evaluations", 39)
    assert (in_evaluations.training_loss, in_evaluations.best_validation_loss) == (0.1, 0.5)


def test_the_setting_is_chosen_by_validation_within_the_budget():
    runs = {"fast": [FAST, FAST], "slow": [SLOW, SLOW]}
    assert chosen(readings(runs, "steps", 30)) == "fast"
    diverged = SLOW._replace(validation_loss=np.full(4, math.inf))
    runs = {"fast": [FAST, diverged], "slow": [SLOW, SLOW]}
    assert chosen(readings(runs, "steps", 30)) == "slow"


def test_the_validation_loss_at_a_training_loss_is_between_two_epochs():
    assert math.isclose(validation_at(FAST, 0.1), 0.5)
    assert math.isclose(validation_at(FAST, math.sqrt(0.1 * 0.01)), 0.4)
    assert math.isnan(validation_at(SLOW, 0.1))


def test_what_was_spent_until_a_training_loss():
    assert spent_until(FAST, "steps", 0.05) == 20
    assert spent_until(FAST, "evaluations", 0.05) == 40
    assert spent_until(SLOW, "steps", 0.05) == math.inf


def test_seeds_are_counted_where_both_have_a_value():
    reference = np.array([1.0, 1.0, 1.0, math.nan])
    assert seeds_above(np.array([2.0, 0.5, math.inf, 2.0]), reference) == "1 of 2"
    assert seeds_above(reference, reference) == ""


def tables(path):
    """The tables of a page, by the nearest line above that is no row: lists of rows of cells."""
    found, title = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            found.setdefault(title, []).append([c.strip() for c in line.strip("|").split("|")])
        elif line:
            title = line.strip("# :")
    return {title: {row[0]: row for row in rows[2:]} for title, rows in found.items()}


def numbers(cell):
    return [float(text) for text in re.findall(r"[\d.]+(?:e-\d+)?", cell)]


def test_the_docs_have_the_figures_of_the_results():
    docs = tables(ROOT / "docs" / "essay-claim.md")
    results = tables(ROOT / "benchmarks" / "results" / "essay_claim-jax.md")
    for dropout in ("without dropout", "dropout 0.4"):
        stated = docs["Without dropout" if "out d" in dropout else "With dropout 0.4"]
        speed = results[f"To a training loss of 0.01, fastest, {dropout}"]
        budget = results[f"2160 gradient evaluations each, {dropout}"]
        levels = results[f"Validation loss at equal training loss, {dropout}"]
        assert list(stated) == list(speed) == list(budget)
        for name, cells in stated.items():
            expected = [
                speed[name][3],
                speed[name][1],
                budget[name][2],
                levels[name][8],
                levels[name][9],
                budget[name][8],
            ]
            for cell, result in zip(cells[1:], expected, strict=True):
                assert numbers(cell) == numbers(result), (dropout, name, cell)
