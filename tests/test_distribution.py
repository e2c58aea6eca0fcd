"""Heun, and soft batches, on several devices equal one device."""

import contextlib

import keras
import numpy as np
import pytest

import keras_cool as kc

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = np.tanh(X[:, :1] * X[:, 1:2]).astype("float32")


def fit(optimizer, scope=contextlib.nullcontext, model_class=kc.Model, options=None):
    """Trains inside the scope; batches of 16, so that a part of each goes to each device."""
    with scope():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        h = keras.layers.Dense(12, activation="tanh")(inputs)
        model = model_class(inputs, keras.layers.Dense(1, kernel_regularizer="l2")(h))
        model.compile(optimizer(), loss="mse", metrics=["mae"], **(options or {}))
        callbacks = [] if model_class is not keras.Model else [kc.callbacks.FinishWindow()]
        history = model.fit(
            X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=callbacks
        ).history
        return model.get_weights(), history


def assert_same(actual, expected):
    exact = "step_size" not in expected[1]  # a controlled step follows the rounding of its error
    for a, b in zip(actual[0], expected[0]):
        np.testing.assert_allclose(a, b, atol=1e-6 if exact else 1e-4)
    for name, values in expected[1].items():
        np.testing.assert_allclose(
            actual[1][name], values, rtol=1e-5 if exact else 1e-3, err_msg=name
        )


class OwnStep(kc.Model):
    def multi_gradient_step(self, x, y, sample_weight):
        return super().multi_gradient_step(x, y, sample_weight)


def accumulating():
    """4 batches an epoch: a window of 3, and one that is not full."""
    return kc.optimizers.Accumulate(keras.optimizers.Adam(0.01), 3)


OPTIMIZERS = {
    "heun": (lambda: kc.optimizers.Heun(0.1), kc.Model),
    "heun-adam": (lambda: kc.optimizers.Heun("adam"), kc.Model),
    "rk4-rmsprop": (lambda: kc.optimizers.RK4("rmsprop"), kc.Model),
    "rk23": (lambda: kc.optimizers.RK23(rtol=1e-2), kc.Model),
    "rk45-full-batch": (lambda: kc.optimizers.RK45(2.0, full_batch=True), kc.Model),
    "chebyshev": (lambda: kc.optimizers.RungeKuttaChebyshev(0.05, stages=3), kc.Model),
    "adam-own-step": (lambda: keras.optimizers.Adam(0.01), OwnStep),
    # The share of a device is 4 samples on JAX, 8 on TensorFlow.
    "microbatch_size": (lambda: keras.optimizers.Adam(0.01), kc.Model, {"microbatch_size": 2}),
    "microbatch_size-uneven": (lambda: kc.optimizers.Heun(0.1), kc.Model, {"microbatch_size": 3}),
    "accumulate": (accumulating, kc.Model),
    "accumulate-keras.Model": (accumulating, keras.Model),
    "accumulate-microbatch_size": (accumulating, kc.Model, {"microbatch_size": 3}),
}


@pytest.fixture(params=OPTIMIZERS)
def case(request):
    return OPTIMIZERS[request.param]


if BACKEND == "jax":

    @contextlib.contextmanager
    def data_parallel():
        devices = keras.distribution.list_devices("cpu")
        assert len(devices) == 4, "tests/conftest.py asks XLA for 4 CPU devices"
        parallel = keras.distribution.DataParallel(devices=devices)
        keras.distribution.set_distribution(parallel)
        try:
            yield
        finally:
            keras.distribution.set_distribution(None)

    def test_four_devices_equal_one(case):
        optimizer, model_class, *options = case
        expected = fit(optimizer, contextlib.nullcontext, model_class, *options)
        assert_same(fit(optimizer, data_parallel, model_class, *options), expected)


if BACKEND == "tensorflow":
    from replicas import mirrored_strategy

    @pytest.fixture
    def strategy():
        return mirrored_strategy()

    def test_two_replicas_equal_one(case, strategy):
        optimizer, model_class, *options = case
        expected = fit(optimizer, contextlib.nullcontext, model_class, *options)
        assert_same(fit(optimizer, strategy.scope, model_class, *options), expected)

    def test_a_non_finite_step_is_skipped_on_all_replicas(strategy):
        with strategy.scope():
            inputs = keras.Input((6,))
            model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
            model.compile(kc.optimizers.Heun("adam"), loss="mse")
            before = model.get_weights()
            bad = X.copy()
            bad[0] = np.inf  # on the first replica only
            model.fit(bad, Y, batch_size=64, shuffle=False, verbose=0)
            for a, b in zip(before, model.get_weights()):
                np.testing.assert_array_equal(a, b)
            assert model.optimizer.iterations.numpy() == 0
            logs = model.fit(X, Y, batch_size=64, verbose=0).history
            assert logs["skipped_steps"] == [1]
            assert model.optimizer.iterations.numpy() == 1
