"""`jvp` against finite differences, in other transforms, and its errors."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.transforms import IN_FLOAT64, LAYERS, Case, slope


def numbers(tensor):
    return ops.convert_to_numpy(tensor).tolist()


@pytest.mark.parametrize("kind", IN_FLOAT64)
def test_against_finite_differences(kind, float64):
    case = Case(kind)
    value, tangent = kc.jvp(case.outputs)(case.tensors, case.directions)
    np.testing.assert_array_equal(value.shape, (5, 2))
    np.testing.assert_allclose(
        ops.convert_to_numpy(tangent), slope(lambda d: case.outputs(case.at(d))), rtol=1e-7
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_in_float32(kind):
    case = Case(kind)
    _, tangent = kc.jvp(case.outputs)(case.tensors, case.directions)
    expected = slope(lambda d: case.outputs(case.at(d)), 2e-2)
    np.testing.assert_allclose(
        ops.convert_to_numpy(tangent), expected, atol=2e-3 * np.abs(expected).max()
    )


def test_it_nests(float64):
    """The third derivative of x^4 along 1, 2 and 3, by three of them; and through a gradient."""
    x = ops.convert_to_tensor([2.0])

    def along(function, direction):
        return lambda t: kc.jvp(function)(t, [ops.full((1,), direction)])[1]

    third = along(along(along(lambda t: t[0] ** 4, 1.0), 2.0), 3.0)
    assert numbers(third([x])) == [24 * 2 * 6]
    value_and_grad = kc.value_and_grad(lambda t: ops.sum(along(lambda u: u[0] ** 3, 1.0)(t)))
    assert numbers(value_and_grad([x])[1][0]) == [12.0]


def test_it_is_mapped_over_samples():
    tangents = ops.vectorized_map(
        lambda x: kc.jvp(lambda t: t[0] ** 2)([x], [ops.ones_like(x)])[1], ops.arange(3.0)
    )
    assert numbers(tangents) == [0.0, 2.0, 4.0]


def test_further_outputs_and_variables_that_are_assigned():
    count = keras.Variable(0.0, trainable=False)

    def function(tensors):
        count.assign_add(1.0)
        return tensors[0] * 3, {"double": tensors[0] * 2, "name": "kept"}

    (value, aux), tangent = kc.jvp(function, has_aux=True)([ops.ones((2,))], [ops.ones((2,))])
    assert numbers(value) == numbers(tangent) == [3.0, 3.0]
    assert numbers(aux["double"]) == [2.0, 2.0] and aux["name"] == "kept"
    assert float(count.numpy()) == 1.0


def test_a_value_that_does_not_depend_on_a_tensor():
    _, tangent = kc.jvp(lambda t: t[0] * 1.0)(
        [ops.ones((2,)), ops.ones(())], [ops.zeros((2,)), 5.0]
    )
    assert numbers(tangent) == [0.0, 0.0]


def test_of_keras_variables():
    variable = keras.Variable([1.0, 2.0])
    _, tangent = kc.jvp(lambda t: t[0] ** 2)([variable], [[1.0, 1.0]])
    assert numbers(tangent) == [2.0, 4.0]


def test_tangents_that_do_not_fit():
    with pytest.raises(ValueError, match=r"one tangent for each tensor.*\[\(2,\)\].*\[\(3,\)\]"):
        kc.jvp(lambda t: t[0])([ops.ones((2,))], [ops.ones((3,))])
    with pytest.raises(ValueError, match="one tangent for each tensor"):
        kc.jvp(lambda t: t[0])([ops.ones((2,))], [])
    with pytest.raises(TypeError, match=r"kc\.jvp\(function\)\(\[tensor\]\)"):
        kc.jvp(lambda t: t[0])(ops.ones((2,)), [ops.ones((2,))])
    with pytest.raises(TypeError, match="dtype int32"):
        kc.jvp(lambda t: t[0])([ops.ones((2,), "int32")], [ops.ones((2,))])
    with pytest.raises(TypeError, match="value of a function under `jvp` is 3.0"):
        kc.jvp(lambda t: 3.0)([ops.ones((2,))], [ops.ones((2,))])
    with pytest.raises(ValueError, match="must return a pair"):
        kc.jvp(lambda t: t[0], has_aux=True)([ops.ones((2,))], [ops.ones((2,))])
