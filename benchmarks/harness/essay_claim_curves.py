"""The curves of the runs of `essay_claim.py`, and what is read off them."""

import math
from typing import NamedTuple

import numpy as np


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


def spent_until(curves, axis, level):
    """The steps or gradient evaluations until the training loss is at most `level`."""
    below = np.flatnonzero(curves.training_loss <= level)
    return getattr(curves, axis)[below[0]] if len(below) else math.inf
