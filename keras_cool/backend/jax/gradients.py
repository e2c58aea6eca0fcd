"""`value_and_grad` on JAX: `jax.value_and_grad`, with `None` where there is no dependence."""

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
