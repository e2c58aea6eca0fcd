"""`hvp` against finite differences and a matrix, in other transforms, and its errors."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.transforms import IN_FLOAT64, Case, flat, slope

RNG = np.random.default_rng(0)


def numbers(tensor):
    return ops.convert_to_numpy(tensor).tolist()


@pytest.mark.parametrize("kind", IN_FLOAT64)
def test_against_finite_differences(kind, float64):
    case = Case(kind)
    value, gradients, products = kc.hvp(case.loss)(case.tensors, case.directions)
    plain, expected = kc.value_and_grad(case.loss)(case.tensors)
    np.testing.assert_allclose(float(value), float(plain), rtol=1e-12)
    np.testing.assert_allclose(flat(gradients), flat(expected), rtol=1e-10, atol=1e-14)
    assert [g is None for g in products] == [g is None for g in expected]
    expected = slope(lambda d: flat(kc.value_and_grad(case.loss)(case.at(d))[1]), 1e-4)
    np.testing.assert_allclose(flat(products), expected, atol=1e-8 * np.abs(expected).max())


def test_a_quadratic_form():
    matrix = RNG.normal(size=(4, 4)).astype("float32")
    x, v = (ops.convert_to_tensor(RNG.normal(size=4).astype("float32")) for _ in range(2))
    _, _, (product,) = kc.hvp(lambda t: ops.dot(t[0], ops.matmul(matrix, t[0])))([x], [v])
    expected = (matrix + matrix.T) @ ops.convert_to_numpy(v)
    np.testing.assert_allclose(ops.convert_to_numpy(product), expected, rtol=1e-4)


def test_tensors_that_the_value_does_not_depend_on():
    tensors = [ops.ones((2,)), ops.ones((3,)), ops.ones(())]
    _, gradients, products = kc.hvp(lambda t: ops.sum(t[0] ** 2) + t[2])(tensors, tensors)
    assert numbers(products[0]) == [2.0, 2.0]
    assert gradients[1] is None and products[1] is None
    assert float(gradients[2]) == 1.0 and float(products[2]) == 0.0


def test_it_nests(float64):
    """The gradient of v^T H v of x^4: 24 x v^2."""
    x, v = ops.convert_to_tensor([2.0]), ops.convert_to_tensor([3.0])

    def curvature(tensors):
        return ops.sum(v * kc.hvp(lambda t: ops.sum(t[0] ** 4))(tensors, [v])[2][0])

    assert numbers(kc.value_and_grad(curvature)([x])[1][0]) == [24 * 2 * 9]


def test_further_outputs_and_variables_that_are_assigned():
    count = keras.Variable(0.0, trainable=False)

    def function(tensors):
        count.assign_add(1.0)
        return ops.sum(tensors[0] ** 2), {"double": tensors[0] * 2}

    (value, aux), _, _ = kc.hvp(function, has_aux=True)([ops.ones((2,))], [ops.ones((2,))])
    assert float(value) == 2.0 and numbers(aux["double"]) == [2.0, 2.0]
    assert float(count.numpy()) == 1.0


@pytest.mark.backend("tensorflow")
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_tensorflow_says_that_it_has_none_for_resized_images(kind):
    """A gradient of bilinear ones would be taken for a constant, without a word."""
    layer = keras.layers.Resizing(6, 6, interpolation=kind)
    x = ops.convert_to_tensor(RNG.normal(size=(1, 4, 4, 2)).astype("float32"))
    loss = lambda t: ops.sum(layer(t[0]) ** 2)  # noqa: E731
    _, (gradient,) = kc.value_and_grad(loss)([x])
    assert gradient.shape == x.shape
    with pytest.raises(NotImplementedError, match="second derivatives of resized images"):
        kc.hvp(loss)([x], [x])
    nested = kc.value_and_grad(lambda t: ops.sum(kc.value_and_grad(loss)(t)[1][0] ** 2))
    with pytest.raises(NotImplementedError, match="second derivatives of resized images"):
        nested([x])
    with pytest.raises(NotImplementedError, match="forward mode"):
        kc.jvp(lambda t: layer(t[0]))([x], [x])


def test_errors():
    with pytest.raises(ValueError, match="one vector for each tensor"):
        kc.hvp(lambda t: ops.sum(t[0]))([ops.ones((2,))], [ops.ones((3,))])
    with pytest.raises(ValueError, match=r"must return a scalar.*shape \(2,\)"):
        kc.hvp(lambda t: t[0])([ops.ones((2,))], [ops.ones((2,))])
    with pytest.raises(TypeError, match=r"kc\.hvp\(function\)\(\[tensor\]\)"):
        kc.hvp(lambda t: t[0])(ops.ones((2,)), [ops.ones((2,))])
