"""The arguments that all quasi-Newton methods have, and their checks."""

from keras_cool.optimizers.checked_arguments import count, number


def checked(method, settings):
    """Returns the settings as plain Python values.

    Args:
        method: String, the name of the method.
        settings: Dictionary of names and values, as `LBFGS` describes them.

    Raises:
        ValueError: If a value is not one that its argument can have.
    """
    found = dict(settings)
    found["max_iterations"] = count(method, "max_iterations", found["max_iterations"])
    if found["max_evaluations"] is not None:
        found["max_evaluations"] = count(
            method, "max_evaluations", found["max_evaluations"], least=2
        )
    for name in ("gradient_tolerance", "change_tolerance"):
        found[name] = number(method, name, found[name], "at least 0", lambda v: v >= 0)
    if found["first_step"] is not None:
        found["first_step"] = number(
            method, "first_step", found["first_step"], "positive, or None", lambda v: v > 0
        )
    for name in ("c1", "c2"):
        found[name] = number(method, name, found[name], "between 0 and 1", lambda v: 0 < v < 1)
    if found["c1"] >= found["c2"]:
        raise ValueError(
            f"The Wolfe constants of {method} have to be 0 < c1 < c2 < 1. They were given as "
            f"c1={found['c1']} and c2={found['c2']}. For example: {method}(c1=1e-4, c2=0.9)."
        )
    if found["line_search"] != "strong_wolfe":
        raise ValueError(
            f"`line_search` of {method} is 'strong_wolfe', the only one there is. It was given "
            f"{found['line_search']!r}."
        )
    return found
