"""TensorFlow: replicas agree at each evaluation; a graph loop over micro-batches."""

import contextlib

import numpy as np
import tensorflow as tf


def allow_float64():
    """Nothing to do: TensorFlow computes in float64 where it is asked to."""


class SameRandomNumbers(contextlib.nullcontext):
    """Nothing to do: all random numbers come from seeds that Keras' variables hold."""

    def were_drawn(self):
        """Whether random numbers were drawn that no variable tells of: never."""
        return False


def apply(optimizer, gradients, variables):
    """Lets the optimizer update the variables."""
    optimizer.apply(gradients, variables)


def apply_if(condition, update, *values):
    """Runs `update(*values)` if the scalar `condition` is true."""
    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        tf.cond(condition, lambda: _then(update, *values), lambda: False)
        return

    # An update of replicas merges them, which it cannot do inside a `cond` of one replica.
    def across_replicas(strategy, condition, *values):
        def call():
            strategy.extended.call_for_each_replica(update, args=values)
            return True

        tf.cond(strategy.experimental_local_results(condition)[0], call, lambda: False)

    tf.distribute.get_replica_context().merge_call(across_replicas, args=(condition, *values))


def _then(update, *values):
    update(*values)
    return True


def all_finite(tensors):
    """Whether every entry of every tensor is finite, as a scalar boolean tensor."""
    # One pass over the memory, where a look at each entry takes two.
    total = tf.reduce_sum([tf.cast(tf.reduce_sum(t), "float32") for t in tensors])

    def look_at_each():  # something is not finite, or the sum of finite entries has overflowed
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(t)) for t in tensors])

    return tf.cond(tf.math.is_finite(total), lambda: True, look_at_each)


def all_finite_if(condition, tensors):
    """Whether `condition` is true and every entry of every tensor that `tensors()` gives finite."""
    return tf.cond(condition, lambda: all_finite(tensors()), lambda: False)


def add_scaled(tensors, factor, others, into=None):
    """Gives `t + factor * o` for each pair of tensors.

    Args:
        tensors: List of tensors, the `t`.
        factor: Float, or scalar tensor.
        others: List of tensors, the `o`.
        into: One of the two lists, whose memory may be taken for the results, or `None`.
    """
    if isinstance(factor, float):  # which `tf.cast` would round to float32
        return [t + factor * o for t, o in zip(tensors, others, strict=True)]
    return [t + tf.cast(factor, t.dtype) * o for t, o in zip(tensors, others, strict=True)]


def sum_of_squared_errors(e, p, q, rtol, atol):
    """Gives the sum of the squares of `e / (atol + rtol * max(|p|, |q|))`, a scalar.

    Where `q` is not finite, the sum is not.
    """
    scale = atol + rtol * tf.maximum(tf.abs(p), tf.abs(q))
    # An infinite point has an infinite scale: `0 * q` keeps it from passing as no error.
    return tf.reduce_sum(tf.square((e + 0 * q) / scale))


def scalar_of_microbatch_if(condition, function, dtype):
    """Gives the scalar `function()` of the dtype if `condition` is true, and 0 otherwise."""
    return tf.cond(condition, function, lambda: tf.zeros((), dtype))


def while_loop(cond, body, loop_vars):
    """`tf.while_loop` over a flat tuple of tensors, in whose body replicas may add up."""
    replicas = number_of_replicas()
    if replicas == 1 or tf.__internal__.distribute.strategy_supports_no_merge_call():
        return tf.while_loop(cond, body, loop_vars)

    # A loop of one replica cannot wait for the others: one loop runs them all, the values of the
    # loop variables side by side, those of each variable for all replicas together.
    def across_replicas(strategy, cond, body, *loop_vars):
        local = strategy.experimental_local_results
        bodies, of_first = local(body), local(cond)[0]

        def of_each(flat):
            replica = tf.get_static_value(
                tf.distribute.get_replica_context().replica_id_in_sync_group
            )
            return tuple(bodies[replica](*flat[replica::replicas]))

        def all_bodies(*flat):
            return flattened(strategy.extended.call_for_each_replica(of_each, args=(flat,)))

        def flattened(values):
            return [tensor for value in values for tensor in local(value)]

        flat = tf.while_loop(
            lambda *flat: of_first(*flat[::replicas]), all_bodies, flattened(loop_vars)
        )
        return [flat[i : i + replicas] for i in range(0, len(flat), replicas)]

    context = tf.distribute.get_replica_context()
    results = context.merge_call(across_replicas, args=(cond, body, *loop_vars))
    return [values[tf.get_static_value(context.replica_id_in_sync_group)] for values in results]


def number_of_replicas():
    """The number of replicas that compute parts of one batch."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(loss, gradients):
    """Adds up loss and gradients over the replicas; Keras has divided the loss by their number."""
    context = tf.distribute.get_replica_context()
    if number_of_replicas() == 1 or context is None:
        return loss, gradients
    loss, *gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, [loss, *gradients])
    return loss, gradients


def over_microbatches(body, initial_state, batch, size):
    """Runs `body` on one micro-batch after another and adds up what it gives.

    The first micro-batch, outside the loop, is the one that may have less than `size` samples, so
    that those in the loop have a static shape, as XLA wants it.

    Args, returns: As in `keras_cool/backend/jax.py`.
    """
    batch = [tf.convert_to_tensor(x) for x in batch]
    # Static sizes where they are known: by them Keras weights the losses of several outputs.
    samples = batch[0].shape[0]
    whole = samples is not None and samples <= size
    samples = tf.shape(batch[0])[0] if samples is None else samples
    first = (samples - 1) % size + 1
    microbatch = batch if whole else [_samples(x, 0, first) for x in batch]
    sums, state, heads, last = body(initial_state(), microbatch, _share(first, samples))
    if whole:
        return sums, state, heads, last
    # Of a batch of unknown size, the size of each is to be as unknown as that of the first.
    size_of_each = size if isinstance(samples, int) else tf.minimum(size, samples)

    def step(i, sums, state, pieces, last):
        microbatch = [_samples(x, first + i * size, size_of_each) for x in batch]
        more, state, outputs, last = body(state, microbatch, _share(size, samples))
        sums = [a + b for a, b in zip(sums, more, strict=True)]
        pieces = [p.write(i, y) for p, y in zip(pieces, outputs, strict=True)]
        return i + 1, sums, _as_tensors(state), pieces, _as_tensors(last)

    count = (samples - first) // size
    pieces = [tf.TensorArray(y.dtype, count, element_shape=(size, *y.shape[1:])) for y in heads]
    # One after another: run side by side, they would all be in memory at once.
    _, sums, state, pieces, last = tf.while_loop(
        lambda i, *_: i < count,
        step,
        (0, sums, _as_tensors(state), pieces, _as_tensors(last)),
        parallel_iterations=1,
    )
    tails = [_joined(p.stack(), y) for p, y in zip(pieces, heads, strict=True)]
    return sums, state, [tf.concat(pair, 0) for pair in zip(heads, tails, strict=True)], last


def _as_tensors(values):
    return [tf.convert_to_tensor(v) for v in values]


def _samples(x, start, count):
    """The samples of `x` from `start` on; the form of slice that XLA takes in a loop."""
    shape = tf.shape(x)
    begin = tf.concat([[start], tf.zeros_like(shape[1:])], 0)
    part = tf.slice(x, begin, tf.concat([[count], shape[1:]], 0))
    return tf.ensure_shape(part, (None, *x.shape[1:]))


def _share(count, samples):
    return tf.cast(count, "float64") / tf.cast(samples, "float64")


def _joined(stacked, output):
    """`(microbatches, size, ...)` as `(microbatches * size, ...)`."""
    return tf.reshape(stacked, tf.concat([[-1], tf.shape(output)[1:]], 0))


def accumulate(variables, tensors, scale, fresh, places):
    """Adds `scale` times each tensor to its variable, or sets it to that where it is fresh.

    Args: As in `keras_cool/backend/jax.py`.
    """
    scaled = [_scaled(t, scale, v.dtype) for v, t in zip(variables, tensors, strict=True)]
    fresh = tf.gather(fresh, places)

    def start(tensors):
        for variable, tensor in zip(variables, tensors, strict=True):
            variable.value.assign(tensor)

    def add(tensors):
        for variable, tensor in zip(variables, tensors, strict=True):
            if isinstance(tensor, tf.IndexedSlices):
                variable.value.scatter_add(tensor)
            else:
                variable.value.assign_add(tensor)

    def mixed(tensors, fresh):
        for variable, tensor, f in zip(variables, tensors, tf.unstack(fresh), strict=True):
            tensor = tf.convert_to_tensor(tensor)
            variable.value.assign(tf.where(f, tensor, variable.value + tensor))

    some, all_of_them = tf.reduce_any(fresh), tf.reduce_all(fresh)
    apply_if(all_of_them, start, scaled)
    apply_if(tf.logical_not(some), add, scaled)
    apply_if(tf.logical_and(some, tf.logical_not(all_of_them)), mixed, scaled, fresh)


def undo_unless(condition, variables, values):
    """Gives the variables the values unless the scalar `condition` is true."""
    if number_of_replicas() == 1:
        for variable, value in zip(variables, values, strict=True):
            variable.value.assign(tf.where(condition, variable.value, value))
        return

    def chosen(held, condition, value):
        held.assign(tf.where(condition, held, value))

    def across_replicas(strategy, condition, *values):
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(variable.value, chosen, args=(condition, value), group=False)

    tf.distribute.get_replica_context().merge_call(across_replicas, args=(condition, *values))


def known_values(tensor):
    """The values of a tensor as a NumPy array, or `None` while a step is compiled."""
    return tensor.numpy() if hasattr(tensor, "numpy") else None


def _scaled(tensor, scale, dtype):
    tensor = tf.cast(tensor, dtype)
    if not tf.is_tensor(scale) and scale == 1:
        return tensor
    if isinstance(tensor, tf.IndexedSlices):
        values = tensor.values * tf.cast(scale, dtype)
        return tf.IndexedSlices(values, tensor.indices, tensor.dense_shape)
    return tensor * tf.cast(scale, dtype)


def of_all_replicas(gradients, weight):
    """Gives the gradients times what they count relative to the mean weight, summed over the
    replicas, and that weight; sparse ones stay sparse where there is one replica."""
    if number_of_replicas() == 1:
        return gradients, weight
    gradients = [tf.convert_to_tensor(g) for g in gradients]
    if not tf.is_tensor(weight):  # the same on all of them
        return gradients_of_all_replicas(gradients), weight
    mean, _ = sum_over_replicas(weight / number_of_replicas(), [])
    relative = tf.math.divide_no_nan(weight, mean)
    gradients = [g * tf.cast(relative, g.dtype) for g in gradients]
    return gradients_of_all_replicas(gradients), mean


def gradients_of_all_replicas(gradients):
    """The gradients of all replicas, summed; sparse ones stay sparse where there is one replica."""
    if number_of_replicas() == 1:
        return gradients
    gradients = [tf.convert_to_tensor(g) for g in gradients]
    return sum_over_replicas(tf.zeros(()), gradients)[1]


def present_trace():
    """What compares equal for two places of a step of which one may use the other's tensors: not
    for the body of a loop and what comes after it."""
    return tf.compat.v1.get_default_graph()


def gradients_of_keras_step(gradients, variables):
    """What Keras' own step gives the optimizer for variables that the loss does not depend on.

    As they are: `None`, of which the optimizer warns.

    Args:
        gradients: List of tensors or `None`.
        variables: List of the `keras.Variable`s.
    """
    return gradients


def replica():
    """The number of the replica that computes."""
    context = tf.distribute.get_replica_context()
    if context is None:
        return 0
    return int(tf.get_static_value(context.replica_id_in_sync_group))


def on_all_replicas(variable, function):
    """Runs `function()`, outside of a step, wherever `variable` has a copy."""
    strategy = getattr(variable.value, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        function()
    else:
        strategy.run(tf.function(function))


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
    """The values of variables, those of all replicas one after another. Outside of a step.

    A tensor that is read keeps its bits: TensorFlow writes to a new buffer while one is held.
    """
    return [tf.identity(part) for part in _parts(variables)]


def assign_copies(variables, values):
    """Gives variables what `copies` made of them, as it was or `as_bytes`."""
    for part, value in zip(_parts(variables), values, strict=True):
        if isinstance(value, np.ndarray):
            value = value.view(part.dtype.as_numpy_dtype).reshape(part.shape)
        part.assign(value)


def _parts(variables):
    """The TensorFlow variables that hold the values, one for each replica."""
    parts = []
    for variable in variables:
        strategy = getattr(variable.value, "distribute_strategy", None)
        held = variable.value
        parts += [held] if strategy is None else strategy.experimental_local_results(held)
    return parts


def as_bytes(value):
    """One of the `copies` as a NumPy array of its bytes."""
    return np.array(value.numpy(), value.dtype.as_numpy_dtype).reshape(-1).view("uint8")


def separate(variables):
    """Nothing to do: an assignment copies."""


are_finite = all_finite  # outside of a step


def random_state():
    """The state of the backend's own random generators."""
    return tf.random.get_global_generator().state.numpy()


def set_random_state(state):
    """Puts back what `random_state` gave."""
    tf.random.get_global_generator().state.assign(state)
