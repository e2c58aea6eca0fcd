"""`squared_residuals`: which losses have residuals, and which are refused."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal
from support.training import fit

NEVER = {"gradient_tolerance": 0, "change_tolerance": 0}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3))
Y = np.tanh(X @ np.array([[1.0, 0.3], [-2.0, 1.0], [0.5, 0.0]]))


def fit_whole(model, **arguments):
    return fit(model, X, Y, batch_size=30, **arguments)


def net(loss, **arguments):
    keras.utils.set_random_seed(2)
    hidden = keras.layers.Dense(4, activation="tanh", **arguments)(inputs := keras.Input((3,)))
    model = kc.Model(inputs, keras.layers.Dense(2)(hidden))
    model.compile(kc.optimizers.LevenbergMarquardt(max_iterations=3, **NEVER), loss=loss)
    return model


def of_ones_own(y_true, y_pred):
    return ops.mean(kc.squared_residuals(y_pred - y_true), axis=-1)


def test_a_loss_of_ones_own_hands_its_residuals_over(float64):
    theirs, own = net("mse"), net(of_ones_own)
    fit_whole(theirs)
    fit_whole(own)
    assert_all_close(own.get_weights(), theirs.get_weights(), rtol=1e-12)


@pytest.mark.parametrize("loss", ["mse", "msle", "squared_hinge"])
def test_losses_of_keras_that_are_sums_of_squares(loss, float64):
    model = net(loss, kernel_regularizer="l2")
    logs = fit_whole(model, epochs=4)  # an error if its gradient were not that of the squares
    assert (np.diff(logs["loss"]) < 0).all()


@pytest.mark.parametrize("loss", ["mae", "categorical_crossentropy", lambda y, p: ops.mean(p**2)])
def test_a_loss_without_residuals(loss):
    with pytest.raises(ValueError, match=r"loss='mse'.*keras_cool\.squared_residuals.*LBFGS"):
        fit_whole(net(loss))


@pytest.mark.parametrize(
    ("loss", "arguments"),
    [
        ("mse", {"kernel_regularizer": keras.regularizers.L1(0.1)}),
        (keras.losses.Huber(0.1), {}),
        (lambda y, p: of_ones_own(y, p) + 1e-3 * ops.mean(p, axis=-1), {}),
    ],
    ids=["l1", "huber", "own"],
)
def test_a_loss_of_other_terms_too(loss, arguments):
    model = net(loss, **arguments)
    before = model.get_weights()
    with pytest.raises(ValueError, match="other terms than the squares of its residuals"):
        fit_whole(model)
    assert_all_equal(model.get_weights(), before)


@pytest.mark.parametrize(
    "loss",
    [
        lambda y, p: ops.sqrt(of_ones_own(y, p)),
        lambda y, p: of_ones_own(y, p) / (1 + ops.sum(kc.squared_residuals(p - y), axis=-1)),
        lambda y, p: ops.maximum(of_ones_own(y, p), 1e-9) ** 2,
    ],
    ids=["root", "quotient", "square"],
)
def test_a_loss_that_is_not_linear_in_the_squares(loss):
    model = net(loss)
    before = model.get_weights()
    with pytest.raises(ValueError, match="not linear in the squares of its residuals"):
        fit_whole(model)
    assert_all_equal(model.get_weights(), before)


def test_a_term_that_is_flat_where_training_begins():
    # The slope of |w| is 0 at 0.
    inputs = keras.Input((3,))
    layer = keras.layers.Dense(2, kernel_initializer="zeros", kernel_regularizer="l1")
    model = kc.Model(inputs, layer(inputs))
    model.compile(kc.optimizers.LevenbergMarquardt(), loss="mse")
    with pytest.raises(ValueError, match="other terms than the squares of its residuals"):
        fit_whole(model)
    np.testing.assert_array_equal(model.get_weights()[0], 0)


def test_a_sample_of_negative_weight():
    model = net("mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match="a negative factor, such as the weight of a sample"):
        fit_whole(model, sample_weight=np.where(np.arange(30) == 3, -1.0, 1.0))
    assert_all_equal(model.get_weights(), before)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_not_taken_for_other_terms(policy):
    keras.config.set_dtype_policy(policy)
    model = net("mse")
    assert fit_whole(model, epochs=12)["loss"][-1] < 0.9 * fit_whole(net("mse"))["loss"][0]


@pytest.mark.backend("jax", "torch")  # Keras' rematerialisation fails on TensorFlow by itself
def test_layers_that_compute_twice():
    # PyTorch runs their forward pass again in the backward pass.
    weights = []
    for mode in (None, "full"):
        with keras.RematScope(mode=mode):
            model = net("mse")
        model.compile(model.optimizer, loss="mse", run_eagerly=True)
        fit_whole(model)
        weights.append(model.get_weights())
    assert_all_close(*weights, rtol=1e-3, atol=1e-4)


def test_it_squares_without_such_an_optimizer_too():
    x = ops.convert_to_tensor(X)
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (kc.squared_residuals(x), x * x)))
    model = net(of_ones_own)
    model.compile("sgd", loss=of_ones_own)
    assert fit_whole(model, epochs=3)["loss"][-1] < fit_whole(net("mse"))["loss"][0]


def test_derivatives_by_the_inputs():
    # The residual of u' = y, whose Jacobian differentiates through a gradient.
    class Slope(kc.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            _, (slope,) = kc.value_and_grad(lambda t: ops.sum(self(t[0])))([x])
            return ops.mean(kc.squared_residuals(slope - y))

    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(8, activation="tanh")(inputs := keras.Input((1,)))
    model = Slope(inputs, keras.layers.Dense(1)(hidden))
    model.compile(kc.optimizers.LevenbergMarquardt())
    x = np.linspace(-2, 2, 20, dtype="float32")[:, None]
    fit(model, x, np.cos(x), batch_size=20, epochs=15)
    u = model.predict(x, verbose=0)
    np.testing.assert_allclose(u - u[0], np.sin(x) - np.sin(x[0]), atol=1e-2)
