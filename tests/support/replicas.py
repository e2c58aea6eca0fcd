"""Where a model is made and trained: on one device, on several, or on two replicas."""

import contextlib
import functools

import keras

BACKEND = keras.backend.backend()


@functools.cache
def mirrored_strategy():
    """Two strategies of one process number their collective operations alike, and collide."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) == 2, "tests/conftest.py splits the CPU into 2 logical devices"
    return tf.distribute.MirroredStrategy([d.name for d in devices])


@contextlib.contextmanager
def distributed(distribution):
    """Under a distribution of `keras.distribution`."""
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)


def two_devices():
    """The context in which a model is made and trained on two, on JAX and TensorFlow."""
    if BACKEND == "tensorflow":
        return mirrored_strategy().scope()
    devices = keras.distribution.list_devices()[:2]
    return distributed(keras.distribution.DataParallel(devices=devices))


def four_devices():
    """Four CPUs of JAX's, each of which has a share of every batch."""
    devices = keras.distribution.list_devices("cpu")
    assert len(devices) == 4, "tests/conftest.py asks XLA for 4 CPU devices"
    return distributed(keras.distribution.DataParallel(devices=devices))


def model_parallel():
    """Four CPUs of JAX's: two shares of a batch, and kernels that lie on two devices."""
    devices = keras.distribution.list_devices("cpu")
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel.*"] = ("model", None)
    layout[".*(momentum|velocity).*"] = (None,)
    return distributed(keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch"))


# The first of several devices stands second.
PLACES = {
    "jax": [contextlib.nullcontext, four_devices, model_parallel],
    "tensorflow": [contextlib.nullcontext, two_devices],
    "torch": [contextlib.nullcontext],
}[BACKEND]
