"""`value_and_grad` on JAX: `jax.value_and_grad`, with `None` where there is no dependence."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import keras
from jax.extend.core import get_opaque_trace_state

from keras_cool.backend.row_sparse import RowSparse, with_rows
from keras_cool.keras_private import GatheringRows

KEEPS_ASSIGNED = False
KEEPS_MASKS = False


def value_and_grad(objective, scope_at, tensors, tables=None):
    """Returns `(value, aux, gradients)` of `objective(tensors, scope) -> (value, aux)`, where the
    scope is `scope_at(tensors)`.

    `tables` are the places of variables among the tensors, by the ids of the variables: tables
    whose gradient is to be `RowSparse` if nothing but `Embedding` layers read them.
    """
    reached = set()

    def watched(tensors, deltas, found):
        tensors = [_watch(reached, i, t) for i, t in enumerate(tensors)]
        gather = _GatheredRows(tables or {}, tensors, deltas, found)
        with (
            scope_at(tensors) as scope,
            GatheringRows(gather) if tables else contextlib.nullcontext(),
        ):
            # Keras' own step differentiates through what a layer assigns to its weights, as
            # spectral normalisation does, and then goes on from the weights as they were.
            scope.keeps_assigned = KEEPS_ASSIGNED
            value, aux = objective(tensors, scope)
            return value, (aux, [indices for _, indices in found])

    tensors, found = list(tensors), []
    if tables:  # what is added to the rows has to be there before
        jax.eval_shape(lambda: watched(tensors, None, found)[0])
    deltas = [jnp.zeros(rows.shape, rows.dtype) for _, rows in found]
    places = [place for place, _ in found]
    (value, (aux, indices)), (gradients, by_rows) = jax.value_and_grad(
        lambda tensors, deltas: watched(tensors, deltas, []), argnums=(0, 1), has_aux=True
    )(tensors, deltas)
    gradients = [g if i in reached else None for i, g in enumerate(gradients)]
    found, shapes = list(zip(places, indices, strict=True)), [t.shape for t in tensors]
    return value, aux, with_rows(gradients, found, by_rows, shapes)


class _GatheredRows:
    """Looks rows up in tables of which no gradient is taken, and adds zeros of which it is.

    Args:
        tables: Dictionary of the places of tables among the tensors, by the ids of the variables.
        tensors: List of tensors, the values of the tables among them.
        deltas: List of these zeros, or `None`: rows are only noted.
        found: List, to which the place of the table and the indices of each look-up are added, or
            the shape of the rows where they are only noted.
    """

    def __init__(self, tables, tensors, deltas, found):
        self._tables, self._tensors = tables, tensors
        self._deltas, self._found = deltas, found
        self._trace = get_opaque_trace_state()

    def __call__(self, table, indices):
        """Returns the rows of a table, a `keras.Variable`, or `None`: they are to be looked up as
        ever. So in a loop or a part that is computed again, which the indices could not leave."""
        place = self._tables.get(id(table))
        if place is None or table.value is not self._tensors[place]:
            return None
        if get_opaque_trace_state() != self._trace:
            return None
        rows = keras.ops.take(jax.lax.stop_gradient(table.value), indices, axis=0)
        if self._deltas is None:
            self._found.append((place, jax.ShapeDtypeStruct(rows.shape, rows.dtype)))
            return rows
        self._found.append((place, indices))
        return rows + self._deltas[len(self._found) - 1]


def vjp(function, tensors):
    """Returns `(value, aux, pull_back)` of `function(tensors) -> (value, aux)`.

    Args:
        function: Such a function, whose value is a tensor, and aux a nest of tensors.
        tensors: List of tensors.

    Returns:
        Value, aux and a function of a tensor like the value, which returns the list of the
        vector-Jacobian products, `None` where the value does not depend on a tensor.
    """
    reached = set()

    def watched(tensors):
        return function([_watch(reached, i, t) for i, t in enumerate(tensors)])

    value, pull_back, aux = jax.vjp(watched, list(tensors), has_aux=True)

    def products(cotangent):
        reached.clear()
        (gradients,) = pull_back(cotangent)
        return [g if i in reached else None for i, g in enumerate(gradients)]

    return value, aux, products


def jvp(function, tensors, tangents):
    """Returns `(value, aux, tangent)` of `function(tensors) -> (value, aux)`, by forward mode.

    Args:
        function: Such a function, whose value and aux are nests of tensors.
        tensors: List of tensors.
        tangents: List of tensors like them.
    """
    value, tangent, aux = jax.jvp(function, (list(tensors),), (list(tangents),), has_aux=True)
    return value, aux, tangent


def over_samples(function, tensors):
    """Returns what `function(tensors)`, a list of tensors, gives for each sample: joined, samples
    first. Random numbers are the same for each.

    Args:
        function: A function of a list of tensors.
        tensors: List of tensors, samples first.
    """
    return jax.vmap(function)(tensors)


def jacobian(function, vector, rows):
    """Returns `(value, aux, jacobian)` of `function(vector) -> (value, aux)`, by reverse mode.

    Args:
        function: Such a function, whose value is a vector, and aux a nest of tensors.
        vector: Vector.
        rows: Integer, how many rows of the Jacobian are computed at a time.
    """
    value, pull_back, aux = jax.vjp(function, vector, has_aux=True)
    basis = jnp.eye(value.shape[0], dtype=value.dtype)
    return value, aux, jax.lax.map(lambda row: pull_back(row)[0], basis, batch_size=rows)


def densify(gradient, tensor):
    """Returns `gradient` as a tensor: zeros like `tensor` where it is `None`, `RowSparse` made
    dense."""
    if isinstance(gradient, RowSparse):
        return gradient.dense()
    return jnp.zeros_like(tensor) if gradient is None else gradient


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _watch(reached, index, tensor):
    """The identity; its reverse pass notes that a gradient came through.

    JAX gives zeros for an input that the value does not depend on, and no public way to tell them
    from a gradient that is zero; a rule for the reverse pass runs only where there is one.
    Guarded by `test_none_where_the_value_does_not_depend`.
    """
    return tensor


def _watch_forward(reached, index, tensor):
    return tensor, None


def _watch_reverse(reached, index, _, cotangent):
    reached.add(index)
    return (cotangent,)


_watch.defvjp(_watch_forward, _watch_reverse)


def differentiable_twice():
    """The context in which the derivatives of a function have right derivatives: any."""
    return contextlib.nullcontext()


def allow_float64():
    """Makes JAX compute in 64 bits where it is asked to, in this process and from now on."""
    jax.config.update("jax_enable_x64", True)


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
