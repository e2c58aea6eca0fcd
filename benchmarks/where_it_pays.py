"""Where the solvers pay: against SGD, momentum and Adam at equal numbers of gradient evaluations.

Every contender is tuned on seeds of its own, then run on others. Run it as
`KERAS_BACKEND=jax python benchmarks/where_it_pays.py`; `--output FOLDER` says where the table, the
curves and the plots go, `--tasks`, `--contenders` and `--seeds` run a part, `--quick` shows that it
runs.
"""

import argparse
import pathlib

from harness.comparison import compare
from harness.contenders import CONTENDERS
from harness.descents import DESCENTS
from harness.games import GAMES
from harness.where_it_pays_report import machine_and_command, plot, table, write_curves

TASKS = DESCENTS | GAMES


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--contenders", nargs="+", choices=names, default=names)
    parser.add_argument("--targets", nargs=2, type=float, help="early and late, of one task")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--output", type=pathlib.Path, help="the folder to write into")
    parser.add_argument("--quick", action="store_true", help="a tenth of the budget, no tuning")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    contenders = [c for c in CONTENDERS if c.name in arguments.contenders]
    for name in arguments.tasks:
        task = TASKS[name]()
        budget = task.budget // 10 if arguments.quick else None
        result = compare(task, contenders, seeds, arguments.quick, budget, arguments.targets)
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
