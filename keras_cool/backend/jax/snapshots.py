"""JAX: copies of the state of training, put back later."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from keras_cool.keras_private import held_value, variable_layout


class SameRandomNumbers(contextlib.nullcontext):
    """Nothing to do: all random numbers come from seeds that Keras' variables hold."""

    def were_drawn(self):
        """Whether random numbers were drawn that no variable tells of: never."""
        return False


def keeping_mode(model):
    """A context in which the model predicts or is evaluated; nothing to put back after it."""
    return contextlib.nullcontext()


def further_state(model):
    """The state of training that no Keras variable holds: none."""
    return []


def copies(variables):
    """Copies of the values of variables, laid out over the devices as these are.

    Outside of a step. The copies are the caller's alone: a step that donates the buffers of its
    state leaves them whole.
    """
    return [jnp.copy(v.value) for v in variables]


def assign_copies(variables, values):
    """Assigns to variables what `copies` made of them, as it was or `as_bytes`.

    The values stay the caller's.
    """
    for variable, value in zip(variables, values, strict=True):
        if isinstance(value, np.ndarray):
            present = variable.value
            value = value.view(present.dtype).reshape(present.shape)
            value = jax.device_put(jnp.array(value), present.sharding)
        variable.assign(jnp.copy(value))


def as_bytes(value):
    """One of the `copies` as a NumPy array of its bytes."""
    return np.asarray(value).reshape(-1).view("uint8")


def separate(variables):
    """Copies the buffer of a variable where several share one.

    So they do after `a.assign(b)`, with which Keras lets the weights and their moving average end a
    training. The next step donates the buffer of one, and so deletes that of the other.
    """
    seen = set()
    for variable in variables:
        value = held_value(variable)
        if value is None:
            continue
        buffer = id(value)
        if variable_layout(variable) is not None:  # each assignment makes a new view of a buffer
            buffer = value.addressable_shards[0].data.unsafe_buffer_pointer()
        if buffer in seen:
            variable.assign(jnp.copy(value))
        seen.add(buffer)


def random_state():
    """The state of the backend's own random generators: it has none."""
    return


def set_random_state(state):
    """Puts back what `random_state` gave."""


def running_mean(mean, variables, count):
    """The mean of the values that variables have had, the present ones as the last of `count`.

    In float32 at least, laid out over the devices as `copies`. Outside of a step. The tensors are
    new ones, and are never written to.

    Args:
        mean: What it returned for the values before, or `None`: there are none.
        variables: List of variables.
        count: Integer, the number of values in the mean.
    """
    values = copies(variables)
    if mean is None:
        return [v.astype(jnp.promote_types(v.dtype, jnp.float32)) for v in values]
    return _mean_with(mean, values, count)


@jax.jit
def _mean_with(mean, values, count):
    pairs = zip(mean, values, strict=True)
    return [m + (v.astype(m.dtype) - m) / jnp.asarray(count, m.dtype) for m, v in pairs]
