"""What a user's function returned, as names and numbers for the logs."""

from collections.abc import Mapping

import numpy as np


def as_log_values(result, name, title):
    """Returns the result of a user's function as a dictionary of floats.

    Args:
        result: A number (of Python, NumPy or the backend), or a dictionary of names and numbers.
        name: String: what a number is called, and an entry that a dictionary has to have.
        title: String, the callback as the user wrote it.

    Raises:
        TypeError: If something is not a number.
        ValueError: If the dictionary has no `name`.
    """
    if not isinstance(result, Mapping):
        return {name: _number(result, title, "")}
    if name not in result:
        raise ValueError(
            f"The function of {title} returned a dictionary without {name!r}, the name that "
            f"decides which model is best. There are: {', '.join(map(repr, result)) or 'none'}."
        )
    return {str(key): _number(value, title, f"{key!r}: ") for key, value in result.items()}


def _number(value, title, key):
    try:
        if isinstance(value, (str, bytes)) or np.ndim(value):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        shape = f" and shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise TypeError(
            f"The function of {title} has to return a number, or a dictionary of names and "
            f"numbers. It returned {key}{value!r} of type {type(value).__name__}{shape}."
        ) from None
