"""The primitive against NumPy in float64 and closed forms."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc


def tensor(values, dtype="float32"):
    return ops.convert_to_tensor(np.asarray(values), dtype=dtype)


def numpy(x):
    return None if x is None else ops.convert_to_numpy(x)


def test_value_and_gradients_of_a_cubic():
    a, b = np.array([1.0, -2.0, 3.0]), np.array([0.5, 1.5, -1.0])
    value, gradients = kc.value_and_grad(lambda t: ops.sum(t[0] ** 3 * t[1]))(
        [tensor(a), tensor(b)]
    )
    np.testing.assert_allclose(numpy(value), (a**3 * b).sum(), rtol=1e-6)
    np.testing.assert_allclose(numpy(gradients[0]), 3 * a**2 * b, rtol=1e-6)
    np.testing.assert_allclose(numpy(gradients[1]), a**3, rtol=1e-6)


def test_aux_is_handed_through_as_a_nest():
    def function(tensors):
        return ops.sum(tensors[0]), {"double": 2 * tensors[0], "pair": (tensors[0], None)}

    (value, aux), gradients = kc.value_and_grad(function, has_aux=True)([tensor([1.0, 2.0])])
    assert float(value) == 3.0
    np.testing.assert_array_equal(numpy(aux["double"]), [2.0, 4.0])
    assert aux["pair"][1] is None
    np.testing.assert_array_equal(numpy(gradients[0]), [1.0, 1.0])


def test_none_where_the_value_does_not_depend():
    tensors = [tensor([1.0]), tensor([2.0]), tensor([3.0])]
    _, gradients = kc.value_and_grad(
        lambda t: ops.sum(t[0] ** 2) + ops.sum(ops.stop_gradient(t[2]))
    )(tensors)
    assert [g is None for g in gradients] == [False, True, True]


def test_a_gradient_that_is_zero_is_not_none():
    _, gradients = kc.value_and_grad(lambda t: ops.sum(t[0] * 0.0))([tensor([1.0, 2.0])])
    np.testing.assert_array_equal(numpy(gradients[0]), [0.0, 0.0])


def test_none_for_all_where_the_value_is_a_constant():
    _, gradients = kc.value_and_grad(lambda t: ops.convert_to_tensor(1.0))([tensor([1.0])])
    assert gradients == [None]


def test_one_tensor_given_twice_has_two_gradients():
    t = tensor([3.0])
    _, gradients = kc.value_and_grad(lambda t: ops.sum(t[0] * t[1] ** 2))([t, t])
    assert [float(g[0]) for g in gradients] == [9.0, 18.0]


def test_hessian_by_nesting_in_the_same_tensor():
    x = np.array([1.0, 2.0])

    def gradient_norm(tensors):
        _, gradients = kc.value_and_grad(lambda t: ops.sum(t[0] ** 3))(tensors)
        return ops.sum(gradients[0] ** 2)

    value, gradients = kc.value_and_grad(gradient_norm)([tensor(x)])
    np.testing.assert_allclose(numpy(value), (9 * x**4).sum(), rtol=1e-6)
    np.testing.assert_allclose(numpy(gradients[0]), 36 * x**3, rtol=1e-6)


def test_gradient_penalty_by_nesting_in_another_tensor():
    """The inner function closes over the outer tensors, as a critic's weights in a WGAN-GP."""
    w, x = np.array([0.3, -0.7, 1.1]), np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 2.0]])

    def penalty(outer):
        def critic(inner):
            return ops.sum(ops.tanh(ops.matmul(inner[0], outer[0])))

        _, (slope,) = kc.value_and_grad(critic)([tensor(x)])
        return ops.mean((ops.sqrt(ops.sum(slope**2, axis=1)) - 1) ** 2)

    value, (gradient,) = kc.value_and_grad(penalty)([tensor(w)])

    def reference(w):
        slope = (1 - np.tanh(x @ w) ** 2)[:, None] * w
        return ((np.sqrt((slope**2).sum(1)) - 1) ** 2).mean()

    h = 1e-6
    numeric = [(reference(w + h * e) - reference(w - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(numpy(value), reference(w), rtol=1e-5)
    np.testing.assert_allclose(numpy(gradient), numeric, rtol=2e-5)


def test_third_order():
    def second(tensors):
        def first(tensors):
            _, (g,) = kc.value_and_grad(lambda t: ops.sum(t[0] ** 4))(tensors)
            return ops.sum(g)

        _, (g,) = kc.value_and_grad(first)(tensors)
        return ops.sum(g)

    value, (gradient,) = kc.value_and_grad(second)([tensor([2.0])])
    assert float(value) == 48.0
    assert float(gradient[0]) == 48.0


def test_variables_are_read_and_do_not_change():
    variable = keras.Variable([1.0, 2.0])
    _, (gradient,) = kc.value_and_grad(lambda t: ops.sum(t[0] ** 2))([variable])
    np.testing.assert_array_equal(numpy(gradient), [2.0, 4.0])
    np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])


def test_variables_that_the_function_assigns_have_their_new_values():
    """Also in a nested call, and on JAX without leaking a tracer."""
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=1)]
    )
    x = tensor([[1.0, 2.0], [3.0, 5.0]])

    def outer(tensors):
        def inner(tensors):
            return ops.sum(model(tensors[0], training=True) ** 2)

        value, (slope,) = kc.value_and_grad(inner)(tensors)
        return value + ops.sum(slope**2)

    kc.value_and_grad(outer)([x])
    mean = model.layers[0].moving_mean.numpy()
    np.testing.assert_allclose(mean, 0.01 * np.array([2.0, 3.5]), rtol=1e-5)
    assert model.layers[1].seed_generator.state.numpy()[1] == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gradients_keep_the_dtype(dtype):
    _, (gradient,) = kc.value_and_grad(lambda t: ops.sum(t[0] ** 2))([tensor([1.0], dtype)])
    assert keras.backend.standardize_dtype(gradient.dtype) == dtype


def test_empty_list():
    value, gradients = kc.value_and_grad(lambda t: ops.convert_to_tensor(2.0))([])
    assert float(value) == 2.0
    assert gradients == []


def test_a_vector_value_is_an_error_that_names_the_mend():
    with pytest.raises(ValueError, match=r"shape \(3,\).*keras.ops.mean"):
        kc.value_and_grad(lambda t: t[0])([tensor([1.0, 2.0, 3.0])])


def test_a_missing_pair_is_an_error_that_names_the_mend():
    with pytest.raises(ValueError, match="drop `has_aux=True`"):
        kc.value_and_grad(lambda t: ops.sum(t[0]), has_aux=True)([tensor([1.0])])


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"a": t}], ids=["tensor", "dictionary"])
def test_what_is_no_list_is_an_error_that_names_the_line(wrap):
    with pytest.raises(TypeError, match=r"list of tensors.*Write `kc.value_and_grad\(function\)\("):
        kc.value_and_grad(lambda t: ops.sum(t[0]))(wrap(tensor([1.0])))


def test_inside_vectorized_map():
    x = np.array([[1.0, 2.0], [3.0, 4.0]])

    def of_one(row):
        value, (gradient,) = kc.value_and_grad(lambda t: ops.sum(t[0] ** 3))([row])
        return ops.append(gradient, value)

    rows = numpy(ops.vectorized_map(of_one, tensor(x)))
    np.testing.assert_allclose(rows, np.c_[3 * x**2, (x**3).sum(1)], rtol=1e-6)


def test_a_value_that_is_no_tensor_is_an_error():
    with pytest.raises(ValueError, match="None of type NoneType"):
        kc.value_and_grad(lambda t: None)([tensor([1.0])])


def test_integer_tensors_are_an_error_that_names_the_mend():
    with pytest.raises(TypeError, match="keras.ops.cast"):
        kc.value_and_grad(lambda t: ops.sum(t[0]))([tensor([1, 2], "int32")])


def test_an_integer_value_is_an_error():
    with pytest.raises(TypeError, match="the value has dtype int32"):
        kc.value_and_grad(lambda t: ops.sum(ops.cast(t[0], "int32")))([tensor([1.0])])


def test_an_error_in_the_function_leaves_the_next_call_sound():
    def fail(tensors):
        raise RuntimeError("in the function")

    with pytest.raises(RuntimeError, match="in the function"):
        kc.value_and_grad(fail)([tensor([1.0])])
    test_value_and_gradients_of_a_cubic()
