"""TensorFlow: updates under a condition, on which all replicas agree."""

import contextlib

import tensorflow as tf

from keras_cool.keras_private import Writing


def apply(optimizer, gradients, variables):
    """Lets the optimizer update the variables."""
    optimizer.apply(gradients, variables)


def writing_after(tensors):
    """Returns the context in which nothing is written where the tensors cannot be computed.

    Keras takes the batch inside of the compiled step. At the end of data of unknown length there is
    none, and what does not depend on it would be written all the same: counts and seeds would go
    on. What is read does not wait: TensorFlow drops the order of a read and a later write where no
    data flow from one to the other, and a read that waits may come after the write.

    Args:
        tensors: List of tensors, those of a batch or gradients; what is no tensor is left out.
    """
    parts = [t.values if isinstance(t, tf.IndexedSlices) else t for t in tensors]
    parts = [t for t in parts if tf.is_tensor(t)]

    def context():
        graph = tf.compat.v1.get_default_graph()
        return tf.control_dependencies([t for t in parts if getattr(t, "graph", None) is graph])

    return contextlib.nullcontext() if tf.executing_eagerly() else Writing(context)


def apply_if(condition, update, *values):
    """Runs `update(*values)` if the scalar `condition` is true."""
    writing = Writing.context()
    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        with writing:
            tf.cond(condition, lambda: _then(update, *values), lambda: False)
        return

    # An update of replicas merges them, which it cannot do inside a `cond` of one replica.
    def across_replicas(strategy, condition, *values):
        def call():
            strategy.extended.call_for_each_replica(update, args=values)
            return True

        with writing:
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
    """Returns `t + factor * o` for each pair of tensors.

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
    """Returns the sum of the squares of `e / (atol + rtol * max(|p|, |q|))`, a scalar.

    Where `q` is not finite, the sum is not.
    """
    scale = atol + rtol * tf.maximum(tf.abs(p), tf.abs(q))
    # An infinite point has an infinite scale: `0 * q` keeps it from passing as no error.
    return tf.reduce_sum(tf.square((e + 0 * q) / scale))


def number_of_replicas():
    """The number of replicas that compute parts of one batch."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(loss, gradients):
    """Adds up loss and gradients over the replicas; Keras has divided the loss by their number."""
    context = tf.distribute.get_replica_context()
    if number_of_replicas() == 1 or context is None:
        return loss, gradients
    tensors = [loss, *gradients]
    for dtype in dict.fromkeys(t.dtype for t in tensors):  # it joins those that it is given
        places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        of_dtype = [tensors[i] for i in places]
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, of_dtype)
        for i, total in zip(places, sums, strict=True):
            tensors[i] = total
    return tensors[0], tensors[1:]


def join_over_replicas(tensors):
    """Joins tensors, samples first, over the replicas that compute parts of one batch.

    Args, returns: As in `keras_cool/backend/jax/updates.py`.
    """
    context = tf.distribute.get_replica_context()
    if number_of_replicas() == 1 or context is None:
        return tensors, lambda tensor: tensor, 1.0
    samples = tf.shape(tensors[0])[0]
    counts = context.all_gather(samples[None], axis=0)
    start = tf.cumsum(counts, exclusive=True)[context.replica_id_in_sync_group]
    joined = [_all_gather(context, t) for t in tensors]
    share = tf.cast(samples, "float64") / tf.cast(tf.reduce_sum(counts), "float64")
    return joined, lambda tensor: tensor[start : start + samples], share


def _all_gather(context, tensor):
    if tensor.dtype != tf.bool:
        return context.all_gather(tensor, axis=0)
    return tf.cast(context.all_gather(tf.cast(tensor, tf.int32), axis=0), tf.bool)


def accumulate(variables, tensors, scale, fresh, places):
    """Adds `scale` times each tensor to its variable, or sets it to that where it is fresh.

    Args: As in `keras_cool/backend/jax/updates.py`.
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
    """Assigns the values to the variables unless the scalar `condition` is true."""
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
    """Returns the gradients, weighted relative to the mean weight and summed over the
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


are_finite = all_finite  # outside of a step
