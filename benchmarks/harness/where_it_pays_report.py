"""The tables, the curves as files and the plots of `where_it_pays.py`."""

import csv

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from harness.timing import machine, settings

POINTS = 40  # of a curve in the file, evenly in the evaluations
COLOURS = {
    "SGD": "0.5",
    "momentum": "C5",
    "Adam": "0.0",
    "Heun": "C0",
    "RK4": "C9",
    "RK45": "C2",
    "RK4 over Adam": "C4",
    "Chebyshev": "C3",
    "Chebyshev over momentum": "C1",
    "Chebyshev over Adam": "C6",
    "Extragradient": "navy",
    "Extragradient over Adam": "C8",
    "Optimistic": "gold",
    "Optimistic over Adam": "lime",
    "L-BFGS": "navy",
    "SSBroyden": "lime",
}
STYLES = {"SGD": ":", "momentum": "--", "Adam": "-."}  # a style each, where it is not a solver
# The methods for games: their colours alone would be too many.
STYLES |= {
    "Extragradient": "-o",
    "Extragradient over Adam": "-s",
    "Optimistic": "-^",
    "Optimistic over Adam": "-v",
    "L-BFGS": "-D",
    "SSBroyden": "-P",
}


def machine_and_command(name, arguments):
    options = f"--tasks {name} --seeds {arguments.seeds}{' --quick' if arguments.quick else ''}"
    return f"{machine()}\n\n`{settings()}python benchmarks/where_it_pays.py {options}`"


def table(result):
    """The Markdown table of a task, and the line on what came out."""
    task, targets = result.task, result.targets
    accuracy = "final accuracy | " if task.held_out and task.batch_size else ""
    early, late = (f"{task.measured} {target:.1e}" for target in targets)
    lines = [
        f"{task.title}: {result.budget} gradient evaluations, {len(_curves(result))} seeds.",
        "",
        f"| | tuned to | final {task.measured} | {accuracy}evaluations to {early} | to {late} |",
        "| --- | --- | --- | " + ("--- | " if accuracy else "") + "--- | --- |",
    ]
    for one in result.results:
        final = [_best(curve) for curve in one.final.curves]
        cells = [one.contender.name, tuned_to(one.final), spread(final, "{:.2e}")]
        if accuracy:
            cells.append(spread([c.accuracies[-1] for c in one.final.curves], "{:.3f}"))
        cells += [spread(values, "{:.0f}") for values in one.evaluations(targets)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", verdict(result)])


def verdict(result):
    """Who of ours and of the others needs fewest evaluations to each target, and their ratio; or
    nothing, if only ours or only others ran."""
    parts = []
    if len({one.contender.ours for one in result.results}) < 2:
        return ""
    for i, name in enumerate(("early", "late")):
        best = {}
        for ours in (False, True):
            medians = {
                one.contender.name: np.median(one.evaluations(result.targets)[i])
                for one in result.results
                if one.contender.ours == ours
            }
            fastest = min(medians, key=medians.get)
            best[ours] = fastest, medians[fastest]
        (others, a), (ours, b) = best[False], best[True]
        if np.isinf(b):
            parts.append(f"the {name} target: none of ours within the budget")
        else:
            if np.isinf(a):
                others, ratio = "none of the others comes there in", f"{result.budget / b:.1f}"
            else:
                others, ratio = f"{others} takes", f"{a / b:.2f}"
            parts.append(f"the {name} target: {others} {ratio} times as many as {ours}")
    return "To " + "; to ".join(parts) + "."


def tuned_to(runs):
    """The settings and the rate in words."""
    words = [f"{name} {value:g}" for name, value in runs.setting.items()]
    if runs.rate is not None:
        words.append(f"rate {runs.rate:.3g}")
    return ", ".join(words)


def spread(values, form):
    """The median with the lowest and the highest value."""
    low, middle, high = (np.quantile(values, q, method="nearest") for q in (0, 0.5, 1))
    words = [form.format(v) if np.isfinite(v) else "-" for v in (middle, low, high)]
    return words[0] if words[0] == "-" == words[1] else "{} ({} to {})".format(*words)


def write_curves(result, path):
    """The median over the seeds, and the lowest and highest, of the best value so far."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["contender", "evaluations", "median", "lowest", "highest"])
        for one in result.results:
            for at, *values in zip(*_bands(one.final, result.budget)):
                writer.writerow([one.contender.name, f"{at:.0f}", *(f"{v:.4g}" for v in values)])


def plot(tasks, folder, path):
    """A panel for each task whose curves are in the folder; gives whether there was one.

    Args:
        tasks: Dictionary of names and functions that make the `Task`s.
        folder: Path, where the files of the curves are.
        path: Path of the picture.
    """
    files = {name: folder / f"where_it_pays-{name}.csv" for name in tasks}
    files = {name: file for name, file in files.items() if file.exists()}
    if not files:
        return False
    columns = min(2, len(files))
    rows = -(-len(files) // columns)
    size = (4.7 * columns, 3.2 * rows + 0.8)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat[len(files) :]:
        axes.axis("off")
    for axes, (name, file) in zip(grid.flat, files.items()):
        _panel(axes, tasks[name](), file)
    found = {}  # not all of them are in each panel
    for axes in grid.flat:
        found |= {name: line for line, name in zip(*axes.get_legend_handles_labels())}
    figure.legend(
        found.values(), found, loc="outside upper center", ncols=2 * columns, frameon=False
    )
    figure.savefig(path, dpi=72, pil_kwargs={"optimize": True})
    plt.close(figure)
    return True


def _panel(axes, task, file):
    curves = {}
    with file.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            values = [float(row[k]) for k in ("evaluations", "median", "lowest", "highest")]
            curves.setdefault(row["contender"], []).append(values)
    for name, points in curves.items():
        at, middle, low, high = np.transpose(points)
        style, colour = STYLES.get(name, "-"), COLOURS[name]
        line = axes.plot(at, middle, style, color=colour, label=name, linewidth=1.6)
        line[0].set(markersize=4, markevery=POINTS // 5)
        axes.fill_between(at, low, high, color=colour, alpha=0.1, linewidth=0)
    axes.set(yscale="log", xlim=(0, at[-1]), xlabel="gradient evaluations", ylabel=task.measured)
    axes.set_title(task.title, fontsize=11)
    axes.grid(alpha=0.25)


def _best(curve):
    return np.inf if curve.diverged() else min(curve.values)


def _curves(result):
    return result.results[0].final.curves


def _bands(runs, budget):
    at = np.linspace(0, budget, POINTS + 1)
    rows = []
    for curve in runs.curves:
        best = np.minimum.accumulate(np.where(np.isfinite(curve.values), curve.values, np.inf))
        rows.append(best[np.searchsorted(curve.spent, at, side="right") - 1])
    return at, np.median(rows, axis=0), np.min(rows, axis=0), np.max(rows, axis=0)
