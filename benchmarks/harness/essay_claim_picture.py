"""The picture of `essay_claim.py`: training loss by gradients, validation loss by training loss."""

import numpy as np
from matplotlib.figure import Figure

from harness.essay_claim_curves import Curves, chosen, readings, validation_at
from harness.essay_claim_report import name_of


def median_at_levels(of_seeds, levels):
    """The median validation loss at each training loss that all seeds reach, and the range."""
    values = np.array([[validation_at(c, level) for level in levels] for c in of_seeds])
    return np.median(values, axis=0), values.min(axis=0), values.max(axis=0)


def draw(results, path):
    """Draws each method's chosen setting: training loss by evaluations, validation by training."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    grid = figure.subplots(len(results), 2, sharey="col", squeeze=False)
    levels = np.geomspace(0.2, 2e-4, 40)
    for row, (dropout, of_methods) in zip(grid, results.items()):
        for name, runs in of_methods.items():
            budget = next(iter(runs.values()))[0].steps[-1]
            curves = runs[chosen(readings(runs, "steps", budget))]
            median = Curves(*np.median(np.array(curves), axis=0)[:, 1:])  # all but the start
            row[0].plot(median.evaluations, median.training_loss, linewidth=1.2, label=name)
            middle, low, high = median_at_levels(curves, levels)
            row[1].plot(levels, middle, linewidth=1.2, label=name)
            if name == "SGD":
                row[1].fill_between(levels, low, high, alpha=0.15, label="SGD, all seeds")
        row[0].set(xscale="log", yscale="log", xlabel="gradient evaluations")
        row[0].set(ylabel="training loss", title=name_of(dropout))
        row[1].set(xscale="log", xlim=(levels[0], levels[-1]), ylim=(0, 0.3))
        row[1].set(xlabel="training loss, falling to the right →", ylabel="validation loss")
        row[1].set(title=name_of(dropout))
        for axes in row:
            axes.grid(alpha=0.3)
    grid[0][1].legend(ncols=2, fontsize=8)
    figure.savefig(path, dpi=110)
