"""`value_and_grad` on JAX: `jax.value_and_grad`, with `None` where there is no dependence."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp

KEEPS_ASSIGNED = False


def value_and_grad(objective, scope_at, tensors):
    """Returns `(value, aux, gradients)` of `objective(tensors, scope) -> (value, aux)`, where the
    scope is `scope_at(tensors)`."""
    reached = set()

    def watched(tensors):
        tensors = [_watch(reached, i, t) for i, t in enumerate(tensors)]
        with scope_at(tensors) as scope:
            # Keras' own step differentiates through what a layer assigns to its weights, as
            # spectral normalisation does, and then goes on from the weights as they were.
            scope.keeps_assigned = KEEPS_ASSIGNED
            return objective(tensors, scope)

    (value, aux), gradients = jax.value_and_grad(watched, has_aux=True)(list(tensors))
    return value, aux, [g if i in reached else None for i, g in enumerate(gradients)]


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
    """Returns `gradient` as a tensor: zeros like `tensor` where it is `None`."""
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
