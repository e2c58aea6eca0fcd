"""`canonical_convolutions`: convolutions in a form that XLA computes fast in loops, on the CPU.

On the CPU, XLA has fast code for convolutions whose dimensions are in the order batch, space,
channels, and transposes others to it, those of gradients, but not inside loops and branches, where
they take some 50 times as long. Here they are transposed beforehand.
"""

import functools

import jax
from jax.extend.core import Literal

# Primitives that stand for a call, and the parameter that holds what is called. A derivative of
# one's own has been taken when a loop's body is computed, or is not asked for.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",  # as `jit` was called before
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def canonical_convolutions(function):
    """Makes a function that computes the same, on the CPU with its convolutions transposed.

    A convolution in a loop or a branch of `function` itself stays as it is.
    """
    if jax.default_backend() != "cpu":
        return function

    @functools.wraps(function)
    def transposing(*arguments):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluate(closed, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return transposing


def _evaluate(closed, arguments):
    """Computes a closed jaxpr, one equation after the other."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(variable):
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        results = _results(equation, [read(v) for v in equation.invars])
        values |= zip(equation.outvars, results, strict=True)
    return [read(v) for v in jaxpr.outvars]


def _results(equation, arguments):
    primitive, parameters = equation.primitive, equation.params
    if primitive.name == "conv_general_dilated":
        return [_convolution(primitive, *arguments, **parameters)]
    if primitive.name in _CALLS:
        return _evaluate(parameters[_CALLS[primitive.name]], arguments)
    results = primitive.bind(*arguments, **parameters)
    return results if primitive.multiple_results else [results]


def _convolution(primitive, inputs, kernel, *, dimension_numbers, **parameters):
    """A convolution with batch, space and channels, and space, inputs and outputs, in that order.

    A specification of `dimension_numbers` says where the dimensions are: batch (outputs, for the
    kernel), channels (inputs), and space.
    """
    batch, channels, *space = dimension_numbers.lhs_spec
    inputs = inputs.transpose(batch, *space, channels)
    outputs, channels, *space = dimension_numbers.rhs_spec
    kernel = kernel.transpose(*space, channels, outputs)
    last = len(space) + 1
    space = tuple(range(1, last))
    canonical = jax.lax.ConvDimensionNumbers(
        (0, last, *space), (last, last - 1, *range(last - 1)), (0, last, *space)
    )
    result = primitive.bind(inputs, kernel, dimension_numbers=canonical, **parameters)
    batch, channels, *space = dimension_numbers.out_spec
    order = (batch, *space, channels)  # where each dimension of the result belongs
    return result.transpose(*(order.index(i) for i in range(last + 1)))
