"""JAX: one compiled loop over micro-batches, loops that run until a condition holds, and sums over
batches."""

import contextlib

import jax
import jax.numpy as jnp
import keras

from keras_cool.backend.jax.convolutions import canonical_convolutions
from keras_cool.backend.jax.devices import devices_of_a_batch
from keras_cool.keras_private import OverlayScope


def scalar_of_microbatch_if(condition, function, dtype):
    """Returns the scalar `function()` of the dtype if `condition` is true, and 0 otherwise.

    It is computed in any case: in a loop over micro-batches a `cond` would have all gradients in
    memory at once, which took 1.7 times as long as none, and a product along with them 1.0.
    """
    return jnp.where(condition, function(), jnp.zeros((), dtype))


def while_loop(cond, body, loop_vars):
    """`keras.ops.while_loop`, fast with convolutions in its body too."""
    return keras.ops.while_loop(cond, canonical_convolutions(body), loop_vars)


def after(tensors):
    """Returns the context of what is computed once the tensors are: any."""
    return contextlib.nullcontext()


def over_microbatches(body, initial_state, batch, size):
    """Runs `body` on one micro-batch after another and adds up what it gives.

    With `keras.distribution` each device goes through its own share of the batch, `size` samples at
    a time, so that no sample changes its device.

    Args:
        body: A function `body(state, microbatch, share)` that returns `(sums, state, outputs, rows,
            last)`, lists of tensors. `share` is the micro-batch's share of the samples. `outputs`
            have the micro-batch's samples as their first dimension; that of `rows` is any, and they
            are joined in any order.
        initial_state: A function that gives the state to start from, called after a first, abstract
            run of `body` with whatever it gives before.
        batch: List of tensors with the same number of samples.
        size: Number of samples of a micro-batch; the last one may have less.

    Returns:
        `(sums, state, outputs, rows, last)`: the sums, the last state, the outputs and the rows of
        the whole batch, and what the last micro-batch gave as `last`.
    """
    samples = batch[0].shape[0]
    devices = devices_of_a_batch(samples)
    count, rest = divmod(samples // devices, size)
    if count + bool(rest) == 1:
        return body(initial_state(), batch, 1.0)

    chunks = [_chunks(x, devices, count, size) for x in batch]
    remainder = [_remainder(x, devices, rest) for x in batch]
    share = devices * size / samples
    first = remainder if rest else [x[0] for x in chunks]
    shapes, *_ = jax.eval_shape(lambda x: body(initial_state(), x, share), first)

    def step(carry, microbatch):
        sums, state = carry
        more, state, *parts = body(state, microbatch, share)
        return ([a + b for a, b in zip(sums, more, strict=True)], state), parts

    sums = [jnp.zeros(s.shape, s.dtype) for s in shapes]
    carry = sums, initial_state()
    (sums, state), parts = jax.lax.scan(canonical_convolutions(step), carry, chunks)
    outputs, rows, lasts = parts
    rows = [r.reshape(-1, *r.shape[2:]) for r in rows]
    tails, last = [None] * len(outputs), [y[-1] for y in lasts]
    if rest:
        more, state, tails, more_rows, last = body(state, remainder, 1.0 - count * share)
        sums = [a + b for a, b in zip(sums, more, strict=True)]
        rows = [jnp.concatenate(pair) for pair in zip(rows, more_rows, strict=True)]
    joined = [_join(y, tail, devices) for y, tail in zip(outputs, tails, strict=True)]
    return sums, state, joined, rows, last


def _chunks(x, devices, count, size):
    x = x.reshape(devices, -1, *x.shape[1:])[:, : count * size]
    x = x.reshape(devices, count, size, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(count, devices * size, *x.shape[3:])


def _remainder(x, devices, rest):
    x = x.reshape(devices, -1, *x.shape[1:])
    x = x[:, x.shape[1] - rest :]
    return x.reshape(devices * rest, *x.shape[2:])


def _join(chunks, tail, devices):
    """The outputs of all micro-batches in the order of the samples: undoes `_chunks`."""
    shape = chunks.shape[2:]
    count, size = chunks.shape[0], chunks.shape[1] // devices
    joined = chunks.reshape(count, devices, size, *shape).swapaxes(0, 1)
    joined = joined.reshape(devices, count * size, *shape)
    if tail is not None:
        joined = jnp.concatenate([joined, tail.reshape(devices, -1, *shape)], axis=1)
    return joined.reshape(-1, *shape)


class SumsOverBatches:
    """Adds up what a function gives for each batch of a pass over the data, outside of a step.

    It is compiled where the steps of the model are. What it assigns to variables of the model holds
    for the batches after it, and is the caller's to put back: on JAX it is gone after the pass.

    Args:
        function: A function of the inputs of a batch that returns a list of tensors.
        model: The Keras model that it calls, built. Variables that come to be later are constants.
    """

    def __init__(self, function, model):
        # Two groups: what the function assigns comes back, and the weights need not.
        self._fixed = list(model.trainable_variables)
        self._state = list(model.non_trainable_variables)

        def step(fixed, state, inputs):
            mapping = [*zip(self._fixed, fixed, strict=True), *zip(self._state, state, strict=True)]
            with OverlayScope(mapping) as scope:
                sums = function(inputs)
            return sums, [scope.get_current_value(v) for v in self._state]

        is_compiled = model.jit_compile and not model.run_eagerly
        self._step = jax.jit(step) if is_compiled else step

    def __call__(self, batches):
        """The sums over an iterable of batches as `fit` has them; `None` if there are none."""
        fixed, state = [v.value for v in self._fixed], [v.value for v in self._state]
        sums = None
        for batch in batches:
            inputs, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            more, state = self._step(fixed, state, inputs)
            sums = more if sums is None else [a + b for a, b in zip(sums, more, strict=True)]
        return sums
