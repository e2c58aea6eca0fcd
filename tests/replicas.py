"""The one strategy with two replicas that all tests share, on TensorFlow."""

import functools


@functools.cache
def mirrored_strategy():
    """Two strategies of one process number their collective operations alike, and collide."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) == 2, "tests/conftest.py splits the CPU into 2 logical devices"
    return tf.distribute.MirroredStrategy([d.name for d in devices])
