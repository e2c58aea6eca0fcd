"""JAX: updates that stay in the state of the step, and what holds for all replicas."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.extend.core import get_opaque_trace_state

from keras_cool.backend.jax.writes import held_back
from keras_cool.keras_private import OverlayScope, trainable_variables_of


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


def writing_after(tensors):
    """Returns the context in which nothing is written where the tensors cannot be computed: any."""
    return contextlib.nullcontext()


def apply_if(condition, update, *values):
    """Runs `update(*values)` if the scalar `condition` is true.

    It is one `cond` over what the update assigns. A select of every value would fuse with it, and
    yet cost more: XLA then holds old and new state at once. Rows of tables are written after it.
    """
    if not isinstance(condition, jax.core.Tracer):
        if condition:
            update(*values)
        return
    variables, writes = _done_by(update, values)

    def taken(state, values):
        with held_back() as writes, OverlayScope(zip(variables, state, strict=True)) as scope:
            update(*values)
        return [scope.get_current_value(v) for v in variables], _of_tables(writes)

    def skipped(state, values):
        return state, [w.of_nothing() for w in writes]

    before = [v.value for v in variables]
    state, of_tables = jax.lax.cond(condition, taken, skipped, before, values)
    for variable, value in zip(variables, state, strict=True):
        variable.assign(value)
    for write, (indices, rows) in zip(writes, of_tables, strict=True):
        write._replace(indices=indices, rows=rows).do()


def _of_tables(writes):
    return [(w.indices, w.rows) for w in writes]


def _done_by(update, values):
    """The variables that `update(*values)` assigns and the rows that it writes, found without
    computing it."""
    variables, writes = [], []

    def trace(values):
        with held_back() as held, OverlayScope() as scope:
            update(*values)
        variables[:] = [variable for variable, _ in scope.updates]
        writes[:] = held
        return _of_tables(held)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the update itself is going to give them
        shapes = jax.eval_shape(trace, values)
    pairs = zip(writes, shapes, strict=True)
    return variables, [w._replace(indices=i, rows=r) for w, (i, r) in pairs]


def all_finite(tensors):
    """Whether every entry of every tensor is finite, as a scalar boolean tensor."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(t)) for t in tensors], bool))


def all_finite_if(condition, tensors):
    """Whether `condition` is true and every entry of every tensor that `tensors()` gives finite."""
    if not isinstance(condition, jax.core.Tracer):
        return all_finite(tensors()) if condition else jnp.array(False)
    return jax.lax.cond(condition, lambda: all_finite(tensors()), lambda: jnp.array(False))


def add_scaled(tensors, factor, others, into=None):
    """Returns `t + factor * o` for each pair of tensors.

    Args:
        tensors: List of tensors, the `t`.
        factor: Float, or scalar tensor.
        others: List of tensors, the `o`.
        into: One of the two lists, whose memory may be taken for the results, or `None`.
    """
    return [t + jnp.asarray(factor, t.dtype) * o for t, o in zip(tensors, others, strict=True)]


def sum_of_squared_errors(e, p, q, rtol, atol):
    """Returns the sum of the squares of `e / (atol + rtol * max(|p|, |q|))`, a scalar.

    Where `q` is not finite, the sum is not.
    """
    scale = atol + rtol * jnp.maximum(jnp.abs(p), jnp.abs(q))
    # An infinite point has an infinite scale: `0 * q` keeps it from passing as no error.
    return jnp.sum(jnp.square((e + 0 * q) / scale))


def number_of_replicas():
    """One: under `keras.distribution` a JAX step computes on the whole batch."""
    return 1


def sum_over_replicas(loss, gradients):
    """Nothing to do: the compiler puts the reductions in."""
    return loss, gradients


def join_over_replicas(tensors):
    """Joins tensors, samples first, over the replicas that compute parts of one batch.

    Returns:
        `(joined, own, share)`: the tensors with the samples of all replicas, a function of such a
        tensor that gives the rows of this replica, and this replica's share of the samples.
    """
    return tensors, lambda tensor: tensor, 1.0


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
    """Assigns the values to the variables unless the scalar `condition` is true."""
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


def replica():
    """The number of the replica that computes: there is one."""
    return 0


def on_all_replicas(variable, function):
    """Runs `function()`, outside of a step, wherever `variable` has a copy."""
    function()


def number_in_step(variable):
    """What stands in a step for an attribute whose number `variable` holds: the variable."""
    return variable


are_finite = jax.jit(all_finite)  # outside of a step, in one call
