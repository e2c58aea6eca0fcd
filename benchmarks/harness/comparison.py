"""Compares optimizers on a task: tunes each on seeds of its own, then runs it on others."""

import time
from typing import Any, NamedTuple

import numpy as np

from harness.tuning import Tuning, evaluations_to, score

TUNING_SEEDS = (1001, 1002)
EARLY = 1 / 4  # of the budget: the early target is what the best of the others reaches there


class Result(NamedTuple):
    """A contender on a task: what it was tuned to, and its runs on the seeds that count."""

    contender: Any
    final: Any  # `Runs`, tuned for the lowest value at the end of the budget
    reaching: list  # `Runs` for each target, tuned for the fewest evaluations to it

    def evaluations(self, targets):
        """The evaluations to each target, a list over the seeds."""
        return [
            [evaluations_to(curve, target) for curve in runs.curves]
            for runs, target in zip(self.reaching, targets)
        ]


class TaskResult(NamedTuple):
    task: Any
    budget: int
    targets: list
    results: list
    seconds: float


def targets_of(tunings, budget):
    """What the best of the others comes down to on the tuning seeds, early and at the end."""
    others = [t for t in tunings if not t.contender.ours]
    return [
        float(np.exp(min(score(t.best_at(at), at) for t in others)))
        for at in (EARLY * budget, budget)
    ]


def compare(task, contenders, seeds, quick=False, budget=None, targets=None):
    """Tunes the contenders on one task and runs them on the seeds.

    Args:
        task: A `Task`.
        contenders: List of `Contender`s, some of ours and some not. Those made for other tasks are
            left out.
        seeds: List of integers, none of them a tuning seed.
        quick: Whether to try only a rate or two of one setting.
        budget: Integer, or `None`: the task's own.
        targets: Two floats, or `None`: what the best of the others reaches.

    Returns:
        `TaskResult`.
    """
    start, budget = time.perf_counter(), budget or task.budget
    tunings = []
    for contender in contenders:
        if not contender.fits(task):
            continue
        tunings.append(Tuning(task, contender, budget))
        tunings[-1].tune(TUNING_SEEDS, quick)
    targets = targets or targets_of(tunings, budget)
    results = []
    for tuning in tunings:
        chosen = [tuning.best_at(budget), *(tuning.fastest_to(target) for target in targets)]
        runs = {}
        for setting, rate, _ in chosen:
            key = (*setting.values(), rate)
            if key not in runs:
                runs[key] = tuning.train(setting, rate, seeds, all_seeds=True)
        final, *reaching = (runs[*setting.values(), rate] for setting, rate, _ in chosen)
        results.append(Result(tuning.contender, final, reaching))
    return TaskResult(task, budget, targets, results, time.perf_counter() - start)
