"""`jacobian` against finite differences, in other transforms, and its errors."""

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
    """Times the directions."""
    case = Case(kind)
    jacobians = kc.jacobian(case.outputs)(case.tensors)
    assert [j.shape for j in jacobians] == [(5, 2, *t.shape) for t in case.tensors]
    product = sum(
        np.tensordot(ops.convert_to_numpy(j), ops.convert_to_numpy(d), d.ndim)
        for j, d in zip(jacobians, case.directions, strict=True)
    )
    np.testing.assert_allclose(product, slope(lambda d: case.outputs(case.at(d))), rtol=1e-7)


def test_shapes_of_scalars_and_of_tensors_without_effect():
    tensors = [ops.ones((2, 1)), ops.ones(()), ops.ones((3,))]
    of_scalar = kc.jacobian(lambda t: ops.sum(t[0]) * t[1])(tensors)
    assert [numbers(j) for j in of_scalar] == [[[1.0], [1.0]], 2.0, [0.0, 0.0, 0.0]]
    (of_nothing,) = kc.jacobian(lambda t: ops.ones((2,)))([ops.ones(())])
    assert numbers(of_nothing) == [0.0, 0.0]


def test_it_nests(float64):
    """The Hessian of x^3 y, as the Jacobian of a gradient and of a Jacobian; and its gradient."""
    x = ops.convert_to_tensor([2.0, 5.0])

    def function(t):
        return t[0][0] ** 3 * t[0][1]

    of_gradient = kc.jacobian(lambda t: kc.value_and_grad(function)(t)[1][0])
    twice = kc.jacobian(lambda t: kc.jacobian(function)(t)[0])
    for hessian in (of_gradient, twice):
        assert numbers(hessian([x])[0]) == [[60.0, 12.0], [12.0, 0.0]]
        _, (gradient,) = kc.value_and_grad(lambda t, h=hessian: ops.sum(h(t)[0]))([x])
        assert numbers(gradient) == [30.0 + 24.0, 12.0]
    _, tangent = kc.jvp(lambda t: kc.jacobian(function)(t)[0])([x], [[1.0, 0.0]])
    assert numbers(tangent) == [60.0, 12.0]


def test_further_outputs_and_variables_that_are_assigned():
    count = keras.Variable(0.0, trainable=False)

    def function(tensors):
        count.assign_add(1.0)
        return tensors[0] * 3, {"double": tensors[0] * 2, "name": "kept"}

    (matrix,), aux = kc.jacobian(function, has_aux=True)([ops.ones((2,))])
    assert numbers(matrix) == [[3.0, 0.0], [0.0, 3.0]]
    assert numbers(aux["double"]) == [2.0, 2.0] and aux["name"] == "kept"
    assert float(count.numpy()) == 1.0


def test_errors():
    with pytest.raises(TypeError, match=r"one dtype.*float16.*float32"):
        kc.jacobian(lambda t: t[0])([ops.ones((2,)), ops.ones((2,), "float16")])
    with pytest.raises(TypeError, match=r"kc\.jacobian\(function\)\(\[tensor\]\)"):
        kc.jacobian(lambda t: t[0])(ops.ones((2,)))
    with pytest.raises(TypeError, match="value of a function under `jacobian` has dtype int32"):
        kc.jacobian(lambda t: ops.cast(t[0], "int32"))([ops.ones((2,))])
