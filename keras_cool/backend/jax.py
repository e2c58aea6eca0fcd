"""JAX: updates that stay in the state, and one compiled loop over micro-batches."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.extend.core import get_opaque_trace_state

from keras_cool.backend.jax_convolutions import canonical_convolutions
from keras_cool.keras_private import (
    OverlayScope,
    held_value,
    trainable_variables_of,
    variable_layout,
)


def allow_float64():
    """Makes JAX compute in 64 bits where it is asked to, in this process and from now on."""
    jax.config.update("jax_enable_x64", True)


class SameRandomNumbers(contextlib.nullcontext):
    """Nothing to do: all random numbers come from seeds that Keras' variables hold."""

    def were_drawn(self):
        """Whether random numbers were drawn that no variable tells of: never."""
        return False


def apply(optimizer, gradients, variables):
    """Lets the optimizer update the variables."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        _apply_stateless(optimizer, gradients, variables)
    else:
        optimizer.apply(gradients, variables)


def _apply_stateless(optimizer, gradients, variables):
    # Its `apply` assigns inside a `cond`, from which only returned values may leave.
    all_variables = trainable_variables_of(optimizer)
    given = {id(v): g for v, g in zip(variables, gradients, strict=True)}
    with warnings.catch_warnings():
        if len(all_variables) != len(variables):  # the others are meant to have no gradient
            warnings.filterwarnings("ignore", message="Gradients do not exist")
        new_variables, new_state = optimizer.stateless_apply(
            [v.value for v in optimizer.variables],
            [given.get(id(v)) for v in all_variables],
            [v.value for v in all_variables],
        )
    for variable, value in zip(
        [*all_variables, *optimizer.variables], [*new_variables, *new_state], strict=True
    ):
        variable.assign(value)


def apply_if(condition, update, *values):
    """Runs `update(*values)` if the scalar `condition` is true.

    It is one `cond` over what the update assigns. A select of every value would fuse with it, and
    yet cost more: XLA then holds old and new state at once.
    """
    if not isinstance(condition, jax.core.Tracer):
        if condition:
            update(*values)
        return
    variables = _assigned_by(update, values)

    def taken(state, values):
        with OverlayScope(zip(variables, state, strict=True)) as scope:
            update(*values)
        return [scope.get_current_value(v) for v in variables]

    def skipped(state, values):
        return state

    state = jax.lax.cond(condition, taken, skipped, [v.value for v in variables], values)
    for variable, value in zip(variables, state, strict=True):
        variable.assign(value)


def _assigned_by(update, values):
    """The variables that `update(*values)` assigns, found without computing it."""
    variables = []

    def trace(values):
        with OverlayScope() as scope:
            update(*values)
        variables[:] = [variable for variable, _ in scope.updates]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the update itself is going to give them
        jax.eval_shape(trace, values)
    return variables


def all_finite(tensors):
    """Whether every entry of every tensor is finite, as a scalar boolean tensor."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(t)) for t in tensors], bool))


def all_finite_if(condition, tensors):
    """Whether `condition` is true and every entry of every tensor that `tensors()` gives finite."""
    if not isinstance(condition, jax.core.Tracer):
        return all_finite(tensors()) if condition else jnp.array(False)
    return jax.lax.cond(condition, lambda: all_finite(tensors()), lambda: jnp.array(False))


def add_scaled(tensors, factor, others, into=None):
    """Gives `t + factor * o` for each pair of tensors.

    Args:
        tensors: List of tensors, the `t`.
        factor: Float, or scalar tensor.
        others: List of tensors, the `o`.
        into: One of the two lists, whose memory may be taken for the results, or `None`.
    """
    return [t + jnp.asarray(factor, t.dtype) * o for t, o in zip(tensors, others, strict=True)]


def sum_of_squared_errors(e, p, q, rtol, atol):
    """Gives the sum of the squares of `e / (atol + rtol * max(|p|, |q|))`, a scalar.

    Where `q` is not finite, the sum is not.
    """
    scale = atol + rtol * jnp.maximum(jnp.abs(p), jnp.abs(q))
    # An infinite point has an infinite scale: `0 * q` keeps it from passing as no error.
    return jnp.sum(jnp.square((e + 0 * q) / scale))


def scalar_of_microbatch_if(condition, function, dtype):
    """Gives the scalar `function()` of the dtype if `condition` is true, and 0 otherwise.

    It is computed in any case: in a loop over micro-batches a `cond` would have all gradients in
    memory at once, which took 1.7 times as long as none, and a product along with them 1.0.
    """
    return jnp.where(condition, function(), jnp.zeros((), dtype))


def while_loop(cond, body, loop_vars):
    """`keras.ops.while_loop`, fast with convolutions in its body too."""
    return keras.ops.while_loop(cond, canonical_convolutions(body), loop_vars)


def number_of_replicas():
    """One: under `keras.distribution` a JAX step computes on the whole batch."""
    return 1


def sum_over_replicas(loss, gradients):
    """Nothing to do: the compiler puts the reductions in."""
    return loss, gradients


def over_microbatches(body, initial_state, batch, size):
    """Runs `body` on one micro-batch after another and adds up what it gives.

    With `keras.distribution` each device goes through its own share of the batch, `size` samples at
    a time, so that no sample changes its device.

    Args:
        body: A function `body(state, microbatch, share)` that returns `(sums, state, outputs,
            last)`, lists of tensors. `share` is the micro-batch's share of the samples. `outputs`
            have the micro-batch's samples as their first dimension.
        initial_state: A function that gives the state to start from, called after a first, abstract
            run of `body` with whatever it gives before.
        batch: List of tensors with the same number of samples.
        size: Number of samples of a micro-batch; the last one may have less.

    Returns:
        `(sums, state, outputs, last)`: the sums, the last state, the outputs of the whole batch,
        and what the last micro-batch gave as `last`.
    """
    samples, devices = batch[0].shape[0], _devices_of_a_batch()
    if samples % devices:
        devices = 1
    count, rest = divmod(samples // devices, size)
    if count + bool(rest) == 1:
        return body(initial_state(), batch, 1.0)

    chunks = [_chunks(x, devices, count, size) for x in batch]
    remainder = [_remainder(x, devices, rest) for x in batch]
    share = devices * size / samples
    first = remainder if rest else [x[0] for x in chunks]
    shapes, _, _, _ = jax.eval_shape(lambda x: body(initial_state(), x, share), first)

    def step(carry, microbatch):
        sums, state = carry
        more, state, outputs, last = body(state, microbatch, share)
        return ([a + b for a, b in zip(sums, more, strict=True)], state), (outputs, last)

    sums = [jnp.zeros(s.shape, s.dtype) for s in shapes]
    carry = sums, initial_state()
    (sums, state), (outputs, lasts) = jax.lax.scan(canonical_convolutions(step), carry, chunks)
    tails, last = [None] * len(outputs), [y[-1] for y in lasts]
    if rest:
        more, state, tails, last = body(state, remainder, 1.0 - count * share)
        sums = [a + b for a, b in zip(sums, more, strict=True)]
    joined = [_join(y, tail, devices) for y, tail in zip(outputs, tails, strict=True)]
    return sums, state, joined, last


def _devices_of_a_batch():
    """The number of devices over which `keras.distribution` splits a batch."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


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


def accumulate(variables, tensors, scale, fresh, places):
    """Adds `scale` times each tensor to its variable, or sets it to that where it is fresh.

    Args:
        variables: List of `keras.Variable`s.
        tensors: List of tensors, one for each.
        scale: Scalar tensor.
        fresh: Boolean vector.
        places: List of integers, the place of each variable in `fresh`.
    """
    for variable, tensor, place in zip(variables, tensors, places, strict=True):
        value = variable.value
        tensor = tensor.astype(value.dtype) * jnp.asarray(scale, value.dtype)
        variable.assign(jnp.where(fresh[place], tensor, value + tensor))


def undo_unless(condition, variables, values):
    """Gives the variables the values unless the scalar `condition` is true."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(jnp.where(condition, variable.value, value))


def known_values(tensor):
    """The values of a tensor as a NumPy array, or `None` while a step is compiled."""
    return None if isinstance(tensor, jax.core.Tracer) else np.asarray(tensor)


def of_all_replicas(gradients, weight):
    """Gradients and weight, as they are: the compiler puts the reductions in."""
    return gradients, weight


def gradients_of_all_replicas(gradients):
    """The gradients, as they are: the compiler puts the reductions in."""
    return gradients


def present_trace():
    """What compares equal for two places of a step of which one may use the other's tensors: not
    for the body of a loop and what comes after it."""
    return get_opaque_trace_state(convention="flax")


def gradients_of_keras_step(gradients, variables):
    """What Keras' own step gives the optimizer for variables that the loss does not depend on.

    Zeros, as `jax.grad` gives them; where it depends on none, `None`, an error of the optimizer.

    Args:
        gradients: List of tensors or `None`.
        variables: List of the `keras.Variable`s.
    """
    if all(g is None for g in gradients):
        return gradients
    pairs = zip(gradients, variables, strict=True)
    return [jnp.zeros_like(v.value) if g is None else g for g, v in pairs]


def replica():
    """The number of the replica that computes: there is one."""
    return 0


def on_all_replicas(variable, function):
    """Runs `function()`, outside of a step, wherever `variable` has a copy."""
    function()


def number_in_step(variable):
    """What stands in a step for an attribute whose number `variable` holds: the variable."""
    return variable


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
    """Gives variables what `copies` made of them, as it was or `as_bytes`.

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
    """Gives each variable a buffer of its own, where several hold the same.

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


are_finite = jax.jit(all_finite)  # outside of a step, in one call


def random_state():
    """The state of the backend's own random generators: it has none."""
    return


def set_random_state(state):
    """Puts back what `random_state` gave."""
