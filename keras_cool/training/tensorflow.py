"""TensorFlow: variables exist before the step is traced; replicas agree at each evaluation."""

import contextlib

import tensorflow as tf

from keras_cool.keras_private import distribution_strategy, symbolic_build


class BackendStep:
    """Runs the common step as `train_step`."""

    def train_step(self, data):
        if self.takes_plain_step():
            return super().train_step(data)
        return self.run_step(data)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras defers building to the first trace; inside an evaluation no variable can be made.
        if distribution_strategy(self) is None and not self.takes_plain_step():
            symbolic_build(self, iterator, data_batch)
        else:
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)


class SameRandomNumbers(contextlib.nullcontext):
    """Nothing to do: all random numbers come from seeds that Keras' variables hold."""


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
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(t)) for t in tensors])


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
