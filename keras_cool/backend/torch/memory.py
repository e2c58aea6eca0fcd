"""PyTorch: the memory of a step, and errors that say there is not enough."""

import gc

import keras
import torch

# What the allocators of the devices, and cuBLAS, say where an allocation fails. Keras raises what a
# layer raised anew, as an error of another kind.
_SAID = ("out of memory", "not enough memory", "can't allocate memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error):
    """Whether an exception says that memory does not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error) for s in _SAID)


def finished(values):
    """Returns a nest of values once they are computed: they are."""
    return values


def release():
    """Gives memory back that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measured(run, held):
    """Returns `(run(), bytes)`: what a step returns, and the most memory that it takes.

    It is what PyTorch counts on a CUDA device, and on a CPU what its profiler records.

    Args:
        run: A function without arguments, the step.
        held: Integer, the bytes of its state and its batch.

    Raises:
        ValueError: If the memory of the device cannot be measured.
    """
    device = keras.ops.zeros(()).device.type
    if device not in ("cpu", "cuda"):
        raise ValueError(
            f"`memory_limit` can be held on a CPU and a CUDA device. Keras uses {device!r}. Leave "
            "`memory_limit` out."
        )
    result, peak = (_on_cuda if device == "cuda" else _on_cpu)(run)
    return result, held + peak


def _on_cuda(run):
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    return result, torch.cuda.max_memory_allocated() - before


def _on_cpu(run):
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        result = run()
    events = [e for e in profile.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return result, peak
