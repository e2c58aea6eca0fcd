"""`vjp` against finite differences, its pullbacks, and its errors."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.transforms import IN_FLOAT64, Case, slope


def numbers(tensor):
    return ops.convert_to_numpy(tensor).tolist()


@pytest.mark.parametrize("kind", IN_FLOAT64)
def test_against_finite_differences(kind, float64):
    """u^T (J v), with v the directions."""
    case = Case(kind)
    value, pullback = kc.vjp(case.outputs)(case.tensors)
    for seed in (0, 1):
        u = np.random.default_rng(seed).normal(size=value.shape)
        gradients = pullback(ops.convert_to_tensor(u))
        product = sum(
            float(ops.sum(g * d)) for g, d in zip(gradients, case.directions, strict=True)
        )
        expected = np.sum(u * slope(lambda d: case.outputs(case.at(d))))
        np.testing.assert_allclose(product, expected, rtol=1e-7)


def test_a_tensor_that_the_value_does_not_depend_on():
    _, pullback = kc.vjp(lambda t: t[0] * 2)([ops.ones((2,)), ops.ones((3,))])
    gradients = pullback(ops.ones((2,)))
    assert numbers(gradients[0]) == [2.0, 2.0] and gradients[1] is None
    _, pullback = kc.vjp(lambda t: ops.ones((2,)))([ops.ones((2,))])
    assert pullback(ops.ones((2,))) == [None]


def test_it_nests(float64):
    x = ops.convert_to_tensor([2.0])

    def derivative(function):
        return lambda t: kc.vjp(function)(t)[1](ops.ones((1,)))[0]

    assert numbers(derivative(derivative(derivative(lambda t: t[0] ** 4)))([x])) == [48.0]
    value_and_grad = kc.value_and_grad(lambda t: ops.sum(derivative(lambda u: u[0] ** 3)(t)))
    assert numbers(value_and_grad([x])[1][0]) == [12.0]


def test_a_pullback_is_differentiated_by_its_cotangent(float64):
    """The derivative of u^T J v by u is J v."""
    x, v = ops.convert_to_tensor([1.0, 2.0]), ops.convert_to_tensor([1.0, 10.0])
    _, pullback = kc.vjp(lambda t: t[0] ** 2)([x])
    _, (product,) = kc.value_and_grad(lambda u: ops.sum(pullback(u[0])[0] * v))([ops.ones((2,))])
    assert numbers(product) == [2.0, 40.0]


def test_it_is_mapped_over_samples():
    gradients = ops.vectorized_map(
        lambda x: kc.vjp(lambda t: t[0] ** 2)([x])[1](ops.ones_like(x))[0], ops.arange(3.0)
    )
    assert numbers(gradients) == [0.0, 2.0, 4.0]


def test_further_outputs_and_variables_that_are_assigned():
    count = keras.Variable(0.0, trainable=False)

    def function(tensors):
        count.assign_add(1.0)
        return tensors[0] * 3, {"double": tensors[0] * 2, "name": "kept"}

    (value, aux), pullback = kc.vjp(function, has_aux=True)([ops.ones((2,))])
    assert numbers(value) == [3.0, 3.0]
    assert numbers(aux["double"]) == [2.0, 2.0] and aux["name"] == "kept"
    pullback(ops.ones((2,)))
    pullback(ops.ones((2,)))
    assert float(count.numpy()) == 1.0


def test_a_cotangent_that_does_not_fit():
    _, pullback = kc.vjp(lambda t: t[0])([ops.ones((2,))])
    with pytest.raises(ValueError, match=r"the shape of the value, \(2,\).*\(3,\)"):
        pullback(ops.ones((3,)))
    with pytest.raises(TypeError, match=r"kc\.vjp\(function\)\(list\(tensors\.values\(\)\)\)"):
        kc.vjp(lambda t: t[0])({"a": ops.ones((2,))})
