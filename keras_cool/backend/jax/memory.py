"""JAX: the memory of a step, and errors that say there is not enough."""

import gc

import jax

# What XLA says where an allocation fails, in an error of its own kind or of JAX's.
_SAID = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


def is_out_of_memory(error):
    """Whether an exception says that memory does not suffice."""
    said = isinstance(error, RuntimeError | ValueError) and any(s in str(error) for s in _SAID)
    return said or isinstance(error, MemoryError)


def finished(values):
    """Returns a nest of values once they are computed, or raises the error that computing them had:
    JAX computes beside Python, and Keras drops such an error when it makes numbers of logs."""
    return jax.block_until_ready(values)


def release():
    """Gives memory back that nothing refers to any more."""
    gc.collect()


def measured(run, held):
    """Refuses to measure a step, as the other backends do: of a compiled step XLA plans the memory,
    see `planned_step.py`, and of any other there is no knowing.

    Raises:
        ValueError: In any case.
    """
    raise ValueError(
        "On JAX `memory_limit` is compared with the memory that XLA plans for the compiled step, "
        "and this model does not compile it. Leave out run_eagerly=True and jit_compile=False, or "
        "leave out `memory_limit`."
    )
