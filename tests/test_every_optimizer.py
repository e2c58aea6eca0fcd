"""What holds for every optimizer that is exported; a new one joins by one line of `OPTIMIZERS`."""

import inspect

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal
from support.replicas import two_devices
from support.training import fit

O = kc.optimizers  # noqa: E741
OPTIMIZERS = {
    "Accumulate": lambda: O.Accumulate(keras.optimizers.Adam(0.01), 2),
    "BFGS": lambda: O.BFGS(max_iterations=3),
    "Extragradient": lambda: O.Extragradient(keras.optimizers.Adam(0.01)),
    "Heun": lambda: O.Heun(keras.optimizers.Adam(0.01)),
    "LazyAdam": lambda: O.LazyAdam(0.01),
    "LazyMomentum": lambda: O.LazyMomentum(0.05),
    "LBFGS": lambda: O.LBFGS(memory=3, max_iterations=3),
    "LevenbergMarquardt": lambda: O.LevenbergMarquardt(1.0, max_iterations=2),
    "Lookahead": lambda: O.Lookahead(keras.optimizers.Adam(0.02), steps=2),
    "Midpoint": lambda: O.Midpoint(0.05),
    "OptimisticGradient": lambda: O.OptimisticGradient(keras.optimizers.Adam(0.01)),
    "Ralston": lambda: O.Ralston(keras.optimizers.SGD(0.05, momentum=0.5)),
    "RK4": lambda: O.RK4(keras.optimizers.RMSprop(0.01)),
    "RK23": lambda: O.RK23(keras.optimizers.Adam(0.01), rtol=0.1, atol=0.01),
    "RK45": lambda: O.RK45(0.05, rtol=0.1, atol=0.01, max_step=0.1),
    "Tsit5": lambda: O.Tsit5(0.05, adaptive=False),
    "RungeKutta": lambda: O.RungeKutta(0.05, O.Tableau(a=[[], [0.5]], b=[0, 1], order=2)),
    "RungeKuttaChebyshev": lambda: O.RungeKuttaChebyshev(0.05, stages=3),
    "SSBroyden": lambda: O.SSBroyden(max_iterations=3),
    "SAM": lambda: O.SAM(keras.optimizers.Adam(0.01), rho=0.1, interval=3, start=1),
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]])).astype("float32")

FULL_BATCH = ("BFGS", "LBFGS", "LevenbergMarquardt", "SSBroyden")  # which amplify rounding

PLAIN = ("LazyAdam", "LazyMomentum")  # of Keras' own kind, that take every gradient they are given

every = pytest.mark.parametrize("name", OPTIMIZERS)
every_other = pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n not in PLAIN])


def test_none_is_left_out():
    exported = {name: getattr(O, name) for name in O.__all__}
    optimizers = {
        name
        for name, value in exported.items()
        if inspect.isclass(value) and issubclass(value, keras.optimizers.Optimizer)
    }
    assert optimizers == {*OPTIMIZERS, "MultiGradientOptimizer"}  # the base of one's own


def net_under(name, **arguments):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, activation="tanh", name="hidden")(inputs)
    hidden = keras.layers.Dropout(0.1, seed=1)(hidden)
    model = kc.Model(inputs, keras.layers.Dense(1, name="output")(hidden))
    model.compile(OPTIMIZERS[name](), loss="mse", **arguments)
    return model


@pytest.mark.thinned(2)
@every
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_it_trains_in_every_precision(name, policy):
    keras.config.set_dtype_policy(policy)
    model = net_under(name)
    dtypes = [v.dtype for v in model.weights]
    # On mini-batches the loss of the next one may rise.
    size = {"batch_size": len(X)} if name == "LevenbergMarquardt" else {}
    losses = fit(model, X, Y, epochs=6, **size)["loss"]
    assert losses[-1] < losses[0]
    assert [v.dtype for v in model.weights] == dtypes
    for weight in model.get_weights():
        assert np.isfinite(weight.astype("float32")).all()


@every
def test_it_goes_on_to_the_bit_after_saving(name, tmp_path):
    model = net_under(name)
    fit(model, X[:24], Y[:24], epochs=2)  # three batches: in the middle of a window
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is type(model.optimizer)
    assert fit(loaded, X, Y, epochs=2) == fit(model, X, Y, epochs=2)
    assert_all_equal(loaded.get_weights(), model.get_weights())


@every
def test_micro_batches_are_the_whole_batch(name):
    whole, parts = net_under(name), net_under(name)
    for model in (whole, parts):
        model.layers[2].rate = 0  # masks are drawn for each micro-batch
    parts.microbatch_size = 3
    fit(whole, X, Y, epochs=2)
    fit(parts, X, Y, epochs=2)
    controlled = name in ("RK23", "RK45", *FULL_BATCH)  # rounding moves the step sizes
    rtol, atol = (1e-3, 1e-3) if controlled else (1e-5, 1e-6)
    assert_all_close(parts.get_weights(), whole.get_weights(), rtol=rtol, atol=atol)


@every_other
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(name):
    # As a step of any Keras optimizer, that of `Lookahead` looks at the gradient in micro-batches.
    model = net_under(name, microbatch_size=4 if name == "Lookahead" else None)
    fit(model, X, Y, epochs=2)
    before, iterations = model.get_weights(), int(model.optimizer.iterations.numpy())
    bad = X[:16].copy()
    bad[0, 0] = bad[8, 0] = np.nan
    logs = fit(model, bad, Y[:16])
    assert_all_equal(model.get_weights(), before)
    assert int(model.optimizer.iterations.numpy()) == iterations
    assert logs["skipped_steps"][-1] >= 1
    assert np.isfinite(fit(model, X, Y, epochs=2)["loss"]).all()


@every
def test_frozen_variables_stay(name):
    model = net_under(name)
    hidden, output = model.get_layer("hidden"), model.get_layer("output")
    hidden.trainable = False
    model.compile(OPTIMIZERS[name](), loss="mse")
    frozen, trained = hidden.get_weights(), output.get_weights()
    fit(model, X, Y, epochs=2)
    assert_all_equal(hidden.get_weights(), frozen)
    assert np.abs(output.get_weights()[0] - trained[0]).max() > 1e-3


@every
@pytest.mark.backend("jax", "tensorflow")
def test_two_devices_are_one(name):
    def trained():
        model = net_under(name)
        model.layers[2].rate = 0  # each replica of TensorFlow draws its own masks
        fit(model, X, Y)
        return model

    expected = trained()
    with two_devices():
        weights = trained().get_weights()
    rtol, atol = (1e-3, 1e-3) if name in FULL_BATCH else (1e-4, 1e-5)
    assert_all_close(weights, expected.get_weights(), rtol=rtol, atol=atol)
