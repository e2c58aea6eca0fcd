"""TensorFlow: graph loops over micro-batches, loops that run until a condition holds, and sums over
batches."""

import keras
import numpy as np
import tensorflow as tf

from keras_cool.backend.tensorflow.updates import number_of_replicas
from keras_cool.keras_private import distribution_strategy


def scalar_of_microbatch_if(condition, function, dtype):
    """Returns the scalar `function()` of the dtype if `condition` is true, and 0 otherwise."""
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


def after(tensors):
    """Returns the context of what is computed once the tensors are, and not beside them; some may
    be `None`."""
    parts = [t.values if isinstance(t, tf.IndexedSlices) else t for t in tensors]
    return tf.control_dependencies([t for t in parts if t is not None])


def over_microbatches(body, initial_state, batch, size):
    """Runs `body` on one micro-batch after another and adds up what it gives.

    The first micro-batch, outside the loop, is the one that may have less than `size` samples, so
    that those in the loop have a static shape, as XLA wants it.

    Args, returns: As in `keras_cool/backend/jax/loops.py`.
    """
    batch = [tf.convert_to_tensor(x) for x in batch]
    # Static sizes where they are known: by them Keras weights the losses of several outputs.
    samples = batch[0].shape[0]
    whole = samples is not None and samples <= size
    samples = tf.shape(batch[0])[0] if samples is None else samples
    first = (samples - 1) % size + 1
    microbatch = batch if whole else [_samples(x, 0, first) for x in batch]
    sums, state, heads, rows, last = body(initial_state(), microbatch, _share(first, samples))
    if whole:
        return sums, state, heads, rows, last
    # Of a batch of unknown size, the size of each is to be as unknown as that of the first.
    size_of_each = size if isinstance(samples, int) else tf.minimum(size, samples)

    def step(i, sums, state, pieces, of_rows, last):
        microbatch = [_samples(x, first + i * size, size_of_each) for x in batch]
        more, state, outputs, rows, last = body(state, microbatch, _share(size, samples))
        sums = [a + b for a, b in zip(sums, more, strict=True)]
        pieces = [p.write(i, y) for p, y in zip(pieces, outputs, strict=True)]
        of_rows = [p.write(i, r) for p, r in zip(of_rows, rows, strict=True)]
        return i + 1, sums, _as_tensors(state), pieces, of_rows, _as_tensors(last)

    count = (samples - first) // size
    pieces = [tf.TensorArray(y.dtype, count, element_shape=(size, *y.shape[1:])) for y in heads]
    of_rows = [
        tf.TensorArray(r.dtype, count, element_shape=(None, *r.shape[1:]), infer_shape=False)
        for r in rows
    ]
    # One after another: run side by side, they would be in memory at once.
    with after(sums):
        batch = [tf.identity(x) for x in batch]
    _, sums, state, pieces, of_rows, last = tf.while_loop(
        lambda i, *_: i < count,
        step,
        (0, sums, _as_tensors(state), pieces, of_rows, _as_tensors(last)),
        parallel_iterations=1,
    )
    tails = [_joined(p.stack(), y) for p, y in zip(pieces, heads, strict=True)]
    outputs = [tf.concat(pair, 0) for pair in zip(heads, tails, strict=True)]
    rows = [tf.concat([r, p.concat()], 0) for r, p in zip(rows, of_rows, strict=True)]
    return sums, state, outputs, rows, last


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


class SumsOverBatches:
    """Adds up what a function gives for each batch of a pass over the data, outside of a step.

    Args: As in `keras_cool/backend/jax/loops.py`.
    """

    def __init__(self, function, model):
        strategy = distribution_strategy(model)
        self._replicas = 1 if strategy is None else strategy.num_replicas_in_sync
        self._strategy, self._whole = strategy, None

        def step(inputs):
            if self._replicas == 1:
                return function(inputs)
            sums = strategy.run(function, args=(inputs,))
            return [strategy.reduce(tf.distribute.ReduceOp.SUM, s, axis=None) for s in sums]

        self._step = step if model.run_eagerly else tf.function(step, reduce_retracing=True)

    def __call__(self, batches):
        """The sums over an iterable of batches as `fit` has them; `None` if there are none."""
        sums = self._whole = None
        for batch in batches:
            inputs, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            more = self._step(self._of_replicas(inputs))
            sums = more if sums is None else [a + b for a, b in zip(sums, more, strict=True)]
        return sums

    def _of_replicas(self, inputs):
        """The inputs, those from the host dealt out over the replicas as `tf.data` does it."""
        leaves = [leaf for leaf in keras.tree.flatten(inputs) if leaf is not None]
        if self._replicas == 1 or not all(isinstance(leaf, np.ndarray) for leaf in leaves):
            return inputs
        self._whole = self._whole or len(leaves[0])  # the last batch may have less
        size = -(-self._whole // self._replicas)

        def part(context):
            start = size * context.replica_id_in_sync_group
            of_replica = slice(start, start + size)
            return keras.tree.map_structure(
                lambda x: x if x is None else tf.convert_to_tensor(x[of_replica]), inputs
            )

        return self._strategy.experimental_distribute_values_from_function(part)
