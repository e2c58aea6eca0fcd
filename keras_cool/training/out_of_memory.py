"""What helps where memory does not suffice, noted on the error."""

import contextlib

from keras_cool import backend

_STATE = "On JAX the step that failed may have taken the weights with it: load them again."
IN_EVALUATE = (
    "`evaluate` computes a batch at once, and this one does not fit into memory. Give a smaller "
    f"`batch_size`, or `validation_batch_size` to `fit`. {_STATE}"
)
IN_PREDICT = (
    "`predict` computes a batch at once, and this one does not fit into memory. Give a smaller "
    f"`batch_size`. {_STATE}"
)
IN_FIT = (
    'A training step does not fit into memory. Compile the model with microbatch_size="auto": the '
    "batch is then computed in parts that fit, and the update is that of the whole batch."
)


@contextlib.contextmanager
def advised(advice):
    """A context in which an error of this kind gets a note.

    Args:
        advice: String, or `None`: no note. One that an inner context has made stands alone.
    """
    try:
        yield
    except Exception as error:
        is_new = advice is not None and not hasattr(error, "__notes__")
        if is_new and backend.memory.is_out_of_memory(error):
            error.add_note(advice)
        raise
