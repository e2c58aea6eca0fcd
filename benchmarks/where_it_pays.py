"""Where the solvers pay: against SGD, momentum and Adam at equal numbers of gradient evaluations.

Every contender is tuned on seeds of its own, then run on others. Run it as
`KERAS_BACKEND=jax python benchmarks/where_it_pays.py`; `--output FOLDER` says where the table, the
curves and the plots go, `--tasks` and `--seeds` run a part, `--quick` shows that it runs.
"""

import argparse
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np
from _contenders import CONTENDERS
from _pays_report import machine_and_command, plot, table, write_curves
from _training_games import GAMES
from _training_tasks import DESCENTS
from _tuning import Tuning, evaluations_to, score

TASKS = DESCENTS | GAMES
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


def compare(task, contenders, seeds, quick=False, budget=None):
    """Tunes the contenders on one task and runs them on the seeds.

    Args:
        task: A `Task`.
        contenders: List of `Contender`s, some of ours and some not.
        seeds: List of integers, none of them a tuning seed.
        quick: Whether to try only a rate or two of one setting.
        budget: Integer, or `None`: the task's own.

    Returns:
        `TaskResult`.
    """
    start, budget = time.perf_counter(), budget or task.budget
    tunings = []
    for contender in contenders:
        tunings.append(Tuning(task, contender, budget))
        tunings[-1].tune(TUNING_SEEDS, quick)
    targets = targets_of(tunings, budget)
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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--output", type=pathlib.Path, help="the folder to write into")
    parser.add_argument("--quick", action="store_true", help="a tenth of the budget, no tuning")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    for name in arguments.tasks:
        task = TASKS[name]()
        budget = task.budget // 10 if arguments.quick else None
        result = compare(task, CONTENDERS, seeds, arguments.quick, budget)
        text = table(result)
        print(text, f"{result.seconds:.0f} s\n", sep="\n", flush=True)
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            path = arguments.output / f"where_it_pays-{name}"
            head = machine_and_command(name, arguments)
            path.with_suffix(".md").write_text(f"{head}\n\n{text}\n")
            write_curves(result, path.with_suffix(".csv"))
    if arguments.output:  # with the tasks of earlier runs into the same folder
        for group, tasks in (("descents", DESCENTS), ("games", GAMES)):
            plot(tasks, arguments.output, arguments.output / f"where_it_pays-{group}.png")


if __name__ == "__main__":
    main()
