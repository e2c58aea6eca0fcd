"""The picture of a path over a loss surface."""

import numpy as np


def draw_trajectory(figure, coordinates, surface, explained_variance_ratio):
    """Draws the contours of the loss, logarithmic where it is positive, and the path on them.

    Losses that are not finite are a gap. The colours end where the highest tenth of the surface
    begins, or above it where the path has been there.

    Args:
        figure: An empty matplotlib `Figure`.
        coordinates: Array `(n, 2)`, the path.
        surface: Dictionary as of `Trajectory.surface`.
        explained_variance_ratio: Array `(2,)`, for the labels.
    """
    axes = figure.add_subplot()
    loss = np.ma.masked_invalid(surface["loss"])
    if loss.count():
        _draw_contours(figure, axes, surface["first"], surface["second"], loss, coordinates)
    axes.plot(*coordinates.T, "-", color="white", linewidth=3.5)
    axes.plot(*coordinates.T, "o-", color="black", linewidth=1.2, markersize=2.5)
    ends = {"clip_on": False, "markeredgecolor": "black", "zorder": 3, "linestyle": "none"}
    axes.plot(*coordinates[0], "o", color="white", markersize=9, label="start", **ends)
    axes.plot(*coordinates[-1], "*", color="gold", markersize=15, label="end", **ends)
    axes.legend()
    first, second = explained_variance_ratio
    axes.set(
        xlim=surface["first"][[0, -1]],
        ylim=surface["second"][[0, -1]],
        xlabel=f"first principal direction ({first:.1%} of the variance)",
        ylabel=f"second principal direction ({second:.1%} of the variance)",
    )


def _draw_contours(figure, axes, first, second, loss, coordinates):
    from matplotlib import colors, ticker

    j = np.abs(first - coordinates[:, :1]).argmin(axis=1)
    i = np.abs(second - coordinates[:, 1:]).argmin(axis=1)
    low = float(loss.min())
    on_path = loss[i, j]
    high = max(
        float(np.quantile(loss.compressed(), 0.9)),
        float(on_path.max()) if on_path.count() else low,
    )
    if high <= low:  # a flat surface
        high = low + max(abs(low), 1.0)
    logarithmic = low > 0
    levels = np.geomspace(low, high, 25) if logarithmic else np.linspace(low, high, 25)
    norm = (colors.LogNorm if logarithmic else colors.Normalize)(low, high)
    arguments = {"levels": levels, "norm": norm, "extend": "max"}
    filled = axes.contourf(first, second, loss, cmap="viridis", **arguments)
    axes.contour(first, second, loss, colors="white", linewidths=0.3, alpha=0.6, **arguments)
    ticks = np.geomspace(low, high, 6) if logarithmic else np.linspace(low, high, 6)
    bar = figure.colorbar(filled, ax=axes, label="loss", ticks=ticks, format="%.3g")
    bar.ax.yaxis.set_minor_locator(ticker.NullLocator())
