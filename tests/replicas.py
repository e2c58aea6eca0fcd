"""Two devices, or two replicas, that all tests share."""

import contextlib
import functools

import keras


@functools.cache
def mirrored_strategy():
    """Two strategies of one process number their collective operations alike, and collide."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) == 2, "tests/conftest.py splits the CPU into 2 logical devices"
    return tf.distribute.MirroredStrategy([d.name for d in devices])


@contextlib.contextmanager
def two_devices():
    """The context in which a model is made and trained on two, on JAX and TensorFlow."""
    if keras.backend.backend() == "tensorflow":
        with mirrored_strategy().scope():
            yield
        return
    devices = keras.distribution.list_devices()[:2]
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)
