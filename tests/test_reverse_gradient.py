"""`kc.reverse_gradient`: the value as it is, the gradient reversed."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc


@pytest.mark.parametrize("scale", [1.0, 0.25, 3, 0])
def test_the_value_is_kept_to_the_bit_and_the_gradient_reversed(scale):
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32") * 1e3

    def loss(tensors):
        reversed_ = kc.reverse_gradient(tensors[0], scale)
        return ops.sum(reversed_**3), reversed_

    (_, value), gradients = kc.value_and_grad(loss, has_aux=True)([ops.convert_to_tensor(x)])
    np.testing.assert_array_equal(ops.convert_to_numpy(value), x)
    np.testing.assert_allclose(ops.convert_to_numpy(gradients[0]), -scale * 3 * x**2, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_dtype_is_kept(dtype):
    x = ops.cast(ops.ones((2,)), dtype)
    assert keras.backend.standardize_dtype(kc.reverse_gradient(x, 0.1).dtype) == dtype


def test_a_functional_model_with_it_saves(tmp_path):
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(1)(kc.reverse_gradient(keras.layers.Dense(2)(inputs), 0.5))
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_the_domain_of_the_features_is_unlearnt():
    """Ganin's use: below the reversal the weights ascend, above it they descend."""
    keras.utils.set_random_seed(0)
    below, above = keras.layers.Dense(1, use_bias=False), keras.layers.Dense(1, use_bias=False)
    inputs = keras.Input((2,))
    model = kc.Model(inputs, above(kc.reverse_gradient(below(inputs))))
    # Eager: Keras' compiled step on TensorFlow may update one weight before it reads it for the
    # gradient of the other.
    model.compile(keras.optimizers.SGD(0.1), loss=lambda y, p: p, run_eagerly=True)
    a, b = (w[:, 0].astype("float64") for w in model.get_weights())
    x = np.array([[1.0, -2.0]], "float32")
    model.train_on_batch(x, x[:, :1])
    new_a, new_b = (w[:, 0] for w in model.get_weights())
    np.testing.assert_allclose(new_a, a + 0.1 * b * x[0], rtol=1e-5)
    np.testing.assert_allclose(new_b, b - 0.1 * x[0] @ a, rtol=1e-5)


def test_what_has_no_gradient_is_refused():
    with pytest.raises(TypeError, match="dtype int32, through which no gradient flows"):
        kc.reverse_gradient(ops.ones((2,), "int32"))
    for scale in ("much", float("nan")):
        with pytest.raises(TypeError, match=f"is a finite number.*{scale}"):
            kc.reverse_gradient(ops.ones((2,)), scale)
