"""What `Rescue` says: where it was, what it did, why it gave up, and what is wrong with it."""

from numbers import Integral, Real

NO_STATE = (
    "There was no good state to go back to. Build the model before `fit`, with "
    "keras.Input(shape) or model.build((None, ...)), to have the first one kept."
)


def out_of_patience(count):
    """Why it gives up after `count` rescues, and what may be done."""
    return (
        f"It had gone back {count} times, which is its `patience`. The model is in its last good "
        "state. Look for bad samples in the data, begin with a smaller learning rate "
        "(keras_cool.callbacks.LearningRateFinder suggests one), or clip the gradients: "
        "keras.optimizers.Adam(global_clipnorm=1.0)."
    )


def place(epoch, batch):
    """Where in a training: after so many steps of an epoch, or with `None` at its end."""
    step = "at its end" if batch is None else f"after {batch} steps"
    return f"epoch {epoch + 1}, {step}"


def in_words(rescue):
    """A record of a rescue as a sentence."""
    return (
        f"{place(rescue['epoch'], rescue['step'])}: {rescue['trouble']}. Back in the last good "
        f"state with the learning rate {rescue['learning_rate']:.4g}."
    )


def check_rescue(patience, factor, divergence_ratio, states):
    """Raises a `ValueError` for arguments of `Rescue` out of their range."""
    example = "For example: Rescue(patience=3, factor=0.5)."
    if isinstance(patience, bool) or not isinstance(patience, Integral) or patience < 0:
        raise ValueError(
            "`patience` is the number of rescues in a training, an integer of at least 0. It was "
            f"given {patience!r}. {example}"
        )
    if not isinstance(factor, Real) or not 0 < float(factor) < 1:
        raise ValueError(
            "`factor` is what the learning rate is multiplied by at a rescue, a number between 0 "
            f"and 1. It was given {factor!r}. {example}"
        )
    is_a_ratio = isinstance(divergence_ratio, Real) and float(divergence_ratio) > 1
    if divergence_ratio is not None and not is_a_ratio:
        raise ValueError(
            "`divergence_ratio` is how many times the best loss is trouble, a number above 1, or "
            "None to look for losses that are not finite alone. It was given "
            f"{divergence_ratio!r}. {example}"
        )
    if isinstance(states, bool) or not isinstance(states, Integral) or states < 1:
        raise ValueError(
            "`states` is how many good states are kept, an integer of at least 1. It was given "
            f"{states!r}. {example}"
        )
