"""JAX: the devices over which `keras.distribution` splits a batch."""

import keras


def devices_of_a_batch(samples):
    """The number of devices over which a batch of so many samples is split evenly, or 1."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    devices = mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]
    return 1 if samples % devices else devices
