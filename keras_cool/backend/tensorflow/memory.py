"""TensorFlow: the memory of a step, and errors that say there is not enough."""

import gc

import keras
import tensorflow as tf

# What XLA and cuBLAS say where an allocation fails, in errors of other kinds.
_SAID = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error):
    """Whether an exception says that memory does not suffice."""
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return True
    return isinstance(error, tf.errors.OpError) and any(s in str(error) for s in _SAID)


def finished(values):
    """Returns a nest of values once they are computed: they are."""
    return values


def release():
    """Gives memory back that nothing refers to any more."""
    gc.collect()


def measured(run, held):
    """Returns `(run(), bytes)`: what a step returns, and the most memory that it takes.

    TensorFlow counts what it allocates on a GPU. On a CPU it counts with oneDNN (on x86), blocks of
    256 KiB and more. Of several devices the one that takes most counts.

    Args:
        run: A function without arguments, the step.
        held: Integer, the bytes of its state and its batch.

    Raises:
        ValueError: If TensorFlow does not count the memory of the device.
    """
    devices = [device.name for device in _devices()]
    try:
        before = [_statistics(device)["current"] for device in devices]
    except ValueError as error:
        raise ValueError(
            "`memory_limit` needs a device whose memory TensorFlow counts: a GPU, or a CPU with "
            "oneDNN (on x86, unless TF_ENABLE_ONEDNN_OPTS=0). It does not count that of "
            f"{devices}. Leave `memory_limit` out."
        ) from error
    for device in devices:
        tf.config.experimental.reset_memory_stats(device)
    result = run()
    keras.tree.map_structure(_wait_for, result)
    peaks = [_statistics(device)["peak"] for device in devices]
    return result, held + max(p - b for p, b in zip(peaks, before, strict=True))


def _devices():
    kind = tf.DeviceSpec.from_string(keras.ops.zeros(()).device).device_type
    return tf.config.list_logical_devices(kind)


def _statistics(device):
    return tf.config.experimental.get_memory_info(device.replace("/device:", ""))


def _wait_for(value):
    return value.numpy() if tf.is_tensor(value) else value
