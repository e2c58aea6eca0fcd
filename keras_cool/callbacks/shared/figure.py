"""Figures for the callbacks that draw: matplotlib's, without a window and without its state."""


def new_figure(callback, **arguments):
    """Makes an empty `matplotlib.figure.Figure`; `savefig` writes it, on any machine.

    Args:
        callback: The callback that draws, for its name.
        **arguments: As for `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot, which would open windows
    except ImportError as error:
        raise ImportError(
            f"{type(callback).__name__} draws with matplotlib, which is not installed. Run "
            "`pip install matplotlib`, or draw the numbers of its `data()` yourself."
        ) from error
    return Figure(layout="constrained", **arguments)
