"""Heun, and soft batches, on several devices equal one device."""

import contextlib

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal
from support.replicas import four_devices, mirrored_strategy

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = np.tanh(X[:, :1] * X[:, 1:2]).astype("float32")


def weights_and_logs(optimizer, scope=contextlib.nullcontext, model_class=kc.Model, options=None):
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


def assert_same_run(actual, expected):
    exact = "step_size" not in expected[1]  # a controlled step follows the rounding of its error
    assert_all_close(actual[0], expected[0], atol=1e-6 if exact else 1e-4)
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


def weights_and_logs_with(callbacks, optimizer, scope=contextlib.nullcontext, options=None):
    """Trains with callbacks made outside of the scope; their data, logs and the weights."""
    callbacks = callbacks() if BACKEND == "tensorflow" else callbacks
    with scope():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        dense = keras.layers.Dense(1, use_bias=False)
        model = kc.Model(inputs, dense(inputs))
        model.compile(optimizer(), loss="mse", **(options or {}))
        callbacks = callbacks if BACKEND == "tensorflow" else callbacks()
        schedules = [
            kc.callbacks.Schedule((model.optimizer, "momentum"), lambda t: 0.9 - 0.1 * t, "step"),
            kc.callbacks.Schedule((model.optimizer, "learning_rate"), {0: 0.1, 1: 0.05}),
        ]
    with scope() if BACKEND == "jax" else contextlib.nullcontext():
        logs = model.fit(
            *(X, Y, 16),
            epochs=2,
            shuffle=False,
            verbose=0,
            validation_data=(X, Y),
            callbacks=[*callbacks, *schedules],
        ).history
    data = {name: v for c in callbacks for name, v in c.data().items() if name != "epoch"}
    return model.get_weights(), logs | data


def momentum():
    return keras.optimizers.SGD(0.1, momentum=0.9)


def microbatch_noise(devices):
    """The noise scale of the first batch in NumPy; a part is 2 samples of each device at a time."""
    x, y, w = X[:16].astype("float64"), Y[:16], np.full((6, 1), 0.5)
    rows = np.arange(16).reshape(devices, -1, 2).swapaxes(0, 1).reshape(-1, 2 * devices)
    gradients = [2 * x[r].T @ (x[r] @ w - y[r]) / len(r) for r in rows]
    square = np.sum(np.mean(gradients, axis=0) ** 2)
    trace = np.mean([np.sum(g**2) for g in gradients]) - square
    trace = trace * 16 / (len(gradients) - 1)
    return trace / (square - trace / 16)


CALLBACKS = {
    "report": (lambda: [kc.callbacks.StepMonitor(2)], momentum),
    # Windows of 3 batches and of 1, which is finished outside of the step.
    "accumulate": (
        lambda: [kc.callbacks.StepMonitor(1), kc.callbacks.GradientNoiseScale(2)],
        lambda: kc.optimizers.Accumulate(momentum(), 3),
    ),
    "microbatch_size": (lambda: [kc.callbacks.StepMonitor(2)], momentum, {"microbatch_size": 2}),
}


def check_callbacks(case, scope):
    callbacks, optimizer, *options = CALLBACKS[case]
    expected = weights_and_logs_with(callbacks, optimizer, contextlib.nullcontext, *options)
    actual = weights_and_logs_with(callbacks, optimizer, scope, *options)
    np.testing.assert_allclose(actual[0][0], expected[0][0], atol=1e-6)
    assert actual[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        np.testing.assert_allclose(actual[1][name], values, rtol=1e-4, err_msg=name)


def check_noise_of_microbatches(scope, devices):
    noise = kc.callbacks.GradientNoiseScale(frequency=2) if BACKEND == "tensorflow" else None
    with scope():
        inputs = keras.Input((6,))
        weights = keras.initializers.Constant(0.5)
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer=weights)
        model = kc.Model(inputs, dense(inputs))
        model.compile(keras.optimizers.SGD(0.0), loss="mse", microbatch_size=2)
        noise = noise or kc.callbacks.GradientNoiseScale(frequency=2)
        model.fit(X[:32], Y[:32], batch_size=16, shuffle=False, verbose=0, callbacks=[noise])
    # A part is 2 samples of each device on JAX; on TensorFlow 2 of one replica.
    parts = devices if BACKEND == "jax" else 1
    assert noise.noise_scale == pytest.approx(microbatch_noise(parts), rel=1e-3)


def check_kept_gradient(scope):
    """`full_batch=True` knows the batch again however its samples lie on the devices."""
    with scope():
        inputs = keras.Input((6,))
        model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
        model.compile(kc.optimizers.RK23(0.01, full_batch=True, max_step=0.02), loss="mse")
        evaluations = [0]
        for x, shuffle in ((X, False), (X, True), (X[::-1], False), (X, True)):
            model.fit(x, Y, batch_size=len(x), shuffle=shuffle, verbose=0)
            evaluations.append(int(model.optimizer.step_logs()["gradient_evaluations"]))
    # Reversed inputs, with labels that are not, are another batch, and so is what follows.
    assert np.diff(evaluations).tolist() == [4, 3, 4, 4]


OPTIMIZERS = {
    "heun": (lambda: kc.optimizers.Heun(0.1), kc.Model),
    "heun-adam": (lambda: kc.optimizers.Heun("adam"), kc.Model),
    "rk4-rmsprop": (lambda: kc.optimizers.RK4("rmsprop"), kc.Model),
    "rk23": (lambda: kc.optimizers.RK23(rtol=1e-2), kc.Model),
    "rk45-full-batch": (lambda: kc.optimizers.RK45(2.0, full_batch=True), kc.Model),
    "rk23-flow-time": (
        lambda: kc.optimizers.RK23(2.0, full_batch=True, flow_time=0.7),
        kc.Model,
        {"microbatch_size": 3},
    ),
    "chebyshev": (lambda: kc.optimizers.RungeKuttaChebyshev(0.05, stages=3), kc.Model),
    "adam-own-step": (lambda: keras.optimizers.Adam(0.01), OwnStep),
    # The share of a device is 4 samples on JAX, 8 on TensorFlow.
    "microbatch_size": (lambda: keras.optimizers.Adam(0.01), kc.Model, {"microbatch_size": 2}),
    "microbatch_size-uneven": (lambda: kc.optimizers.Heun(0.1), kc.Model, {"microbatch_size": 3}),
    "whole_batch_loss": (
        lambda: kc.optimizers.Heun("adam"),
        kc.Model,
        {"microbatch_size": 3, "whole_batch_loss": True},
    ),
    "accumulate": (accumulating, kc.Model),
    "accumulate-keras.Model": (accumulating, keras.Model),
    "accumulate-microbatch_size": (accumulating, kc.Model, {"microbatch_size": 3}),
}


@pytest.fixture(params=OPTIMIZERS)
def case(request):
    return OPTIMIZERS[request.param]


if BACKEND == "jax":

    def test_four_devices_equal_one(case):
        optimizer, model_class, *options = case
        expected = weights_and_logs(optimizer, contextlib.nullcontext, model_class, *options)
        assert_same_run(weights_and_logs(optimizer, four_devices, model_class, *options), expected)

    @pytest.mark.parametrize("case", CALLBACKS)
    def test_callbacks_on_four_devices_equal_one(case):
        check_callbacks(case, four_devices)

    def test_a_kept_gradient_on_four_devices():
        check_kept_gradient(four_devices)

    def test_the_noise_scale_of_microbatches_on_four_devices():
        check_noise_of_microbatches(four_devices, 4)


if BACKEND == "tensorflow":

    @pytest.fixture
    def strategy():
        return mirrored_strategy()

    def test_two_replicas_equal_one(case, strategy):
        optimizer, model_class, *options = case
        expected = weights_and_logs(optimizer, contextlib.nullcontext, model_class, *options)
        assert_same_run(
            weights_and_logs(optimizer, strategy.scope, model_class, *options), expected
        )

    @pytest.mark.parametrize("case", CALLBACKS)
    def test_callbacks_on_two_replicas_equal_one(case, strategy):
        check_callbacks(case, strategy.scope)

    def test_a_kept_gradient_on_two_replicas(strategy):
        check_kept_gradient(strategy.scope)

    def test_the_noise_scale_of_microbatches_on_two_replicas(strategy):
        check_noise_of_microbatches(strategy.scope, 2)

    def test_a_non_finite_step_is_skipped_on_all_replicas(strategy):
        with strategy.scope():
            inputs = keras.Input((6,))
            model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
            model.compile(kc.optimizers.Heun("adam"), loss="mse")
            before = model.get_weights()
            bad = X.copy()
            bad[0] = np.inf  # on the first replica only
            model.fit(bad, Y, batch_size=64, shuffle=False, verbose=0)
            assert_all_equal(before, model.get_weights())
            assert model.optimizer.iterations.numpy() == 0
            logs = model.fit(X, Y, batch_size=64, verbose=0).history
            assert logs["skipped_steps"] == [1]
            assert model.optimizer.iterations.numpy() == 1

    class TwoLosses(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            variables = self.trainable_variables
            loss, gradients = self.value_and_grad(
                lambda x, y: self.compute_loss(x, y, self(x, training=True)),
                variables,
                batch=(x, y),
            )
            self.apply_gradients(gradients, variables)
            return {"loss": loss}

    @pytest.mark.parametrize("size", [None, 2])
    @pytest.mark.parametrize("run_eagerly", [False, True])
    def test_the_loss_of_a_step_of_ones_own_is_that_of_all_replicas(strategy, size, run_eagerly):
        """By hand: zeros on the first replica and tens on the second."""
        x, y = np.ones((8, 1)), np.repeat([[0.0], [10.0]], 4, axis=0)
        with strategy.scope():
            inputs = keras.Input((1,))
            model = TwoLosses(inputs, keras.layers.Dense(1, kernel_initializer="zeros")(inputs))
            model.compile("sgd", loss="mse", microbatch_size=size, run_eagerly=run_eagerly)
            model.optimizer.learning_rate = 0.0
        logs = model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False).history
        assert logs["loss"] == [50, 50]

    @pytest.mark.parametrize("way", ["compile", "attribute"])
    def test_a_skipped_step_of_microbatches_counts_once(strategy, way):
        with strategy.scope():
            inputs = keras.Input((6,))
            model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
            model.compile("sgd", loss="mse", microbatch_size=4 if way == "compile" else None)
        if way == "attribute":
            model.microbatch_size = 4
        bad = X.copy()
        bad[0] = np.inf
        logs = model.fit(bad, Y, batch_size=32, shuffle=False, verbose=0).history
        assert logs["skipped_steps"] == [1]
