"""Finds the rate and the settings with which a contender does best, on seeds of their own."""

from typing import Any, NamedTuple

import numpy as np

from harness.recorded_training import Trainable

FINER = (2.0, 0.5)  # what the best rate of the coarse grid is multiplied with, to look beside it


class Runs(NamedTuple):
    """A contender's runs at one setting and rate, one for each seed."""

    setting: dict
    rate: float | None
    curves: list


def best_so_far(curve, at):
    """The lowest value that was reached by a number of evaluations; infinite after divergence."""
    if curve.diverged():
        return np.inf
    values = [v for spent, v in zip(curve.spent, curve.values) if spent <= at]
    return min(values)


def evaluations_to(curve, target):
    """The gradient evaluations until the target was reached, infinite if it was not."""
    if curve.diverged():
        return np.inf
    reached = (n for n, v in zip(curve.spent, curve.values) if v <= target)
    return next(reached, np.inf)


def score(runs, at):
    """The mean over the seeds of the logarithm of the best value so far."""
    values = np.array([best_so_far(curve, at) for curve in runs.curves])
    return np.mean(np.log(np.maximum(values, 1e-30)))


def improves(curve):
    """Whether a run got anywhere; one whose every step is skipped does not, nor does it diverge."""
    return not curve.diverged() and min(curve.values) < curve.values[0]


class Tuning:
    """The tuning of one contender on one task: one compiled model a setting, many runs."""

    def __init__(self, task, contender, budget):
        self.task, self.contender, self.budget = task, contender, budget
        self.trainables: list[tuple[dict, Any]] = []
        self.runs: list[Runs] = []

    def tune(self, seeds, quick=False):
        settings = self.contender.settings(self.task)
        for setting in settings[:1] if quick else settings:
            optimizer = self.contender.optimizer(self.task, setting)
            full_batch = self.contender.full_batch(self.task)
            self.trainables.append((setting, Trainable(self.task, optimizer, full_batch)))
            self.tune_rate(setting, seeds, quick)

    def tune_rate(self, setting, seeds, quick):
        if self.contender.rates is None:
            self.runs.append(self.train(setting, None, seeds))
            return
        scale = self.contender.scale(setting)
        rates = [scale * rate for rate in self.contender.rates]
        step = rates[0] / rates[1]
        tried = {}

        def attempt(rate):
            if rate not in tried:
                tried[rate] = self.train(setting, rate, seeds)
                self.runs.append(tried[rate])

        def best():
            return min(sorted(tried), key=lambda rate: score(tried[rate], self.budget))

        for rate in rates[3:5] if quick else rates:
            attempt(rate)
        if quick:
            return
        for _ in range(3):  # a best rate at the end of the grid is none
            if best() == min(tried) or not any(map(improves, tried[best()].curves)):
                attempt(min(tried) / step)
            elif best() == max(tried):
                attempt(best() * step)
        centre = best()
        for factor in FINER:
            attempt(centre * factor)

    def train(self, setting, rate, seeds, all_seeds=False):
        """Trains from the start of each seed, or until one diverges."""
        trainable = next(t for s, t in self.trainables if s == setting)
        evaluations = self.contender.evaluations(setting)
        curves = []
        for seed in seeds:
            curves.append(trainable.run(seed, self.budget, rate, evaluations))
            if curves[-1].diverged() and not all_seeds:
                break  # the other seeds could not improve the mean
        return Runs(setting, rate, curves)

    def best_at(self, at):
        """The runs that had come lowest by a number of evaluations."""
        return min(self.runs, key=lambda runs: score(runs, at))

    def fastest_to(self, target):
        """The runs that took the fewest evaluations to a target, the middle of the seeds."""

        def middle(runs):
            return np.median([evaluations_to(curve, target) for curve in runs.curves])

        fastest = min(self.runs, key=middle)
        return fastest if np.isfinite(middle(fastest)) else self.best_at(self.budget)
