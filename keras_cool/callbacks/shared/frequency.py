"""How often a callback acts: once an epoch, or every so many steps."""

from numbers import Integral


def checked_frequency(frequency, callback, epochs_allowed=True):
    """Returns the `frequency` of a callback, `"epoch"` or a positive integer.

    Args:
        frequency: What the user gave.
        callback: The callback, for its name.
        epochs_allowed: Boolean, whether it may be `"epoch"`. Defaults to `True`.
    """
    if epochs_allowed and frequency == "epoch":
        return frequency
    if isinstance(frequency, bool) or not isinstance(frequency, Integral) or frequency < 1:
        name = type(callback).__name__
        wanted = '"epoch" or a positive integer' if epochs_allowed else "a positive integer"
        raise ValueError(
            f"The `frequency` of {name} is {wanted}, the number of steps from one time to the "
            f"next. It was given {frequency!r}. For example: {name}(..., frequency=100)."
        )
    return int(frequency)
