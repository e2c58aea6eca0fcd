"""Heun's method against NumPy in float64, and its order against the exact gradient flow."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc

STEPS = 50


def linear_model(weights, loss, optimizer, activation=None):
    """A model with one weight vector, full-batch steps, and no bias."""
    inputs = keras.Input((len(weights),))
    dense = keras.layers.Dense(1, use_bias=False, activation=activation)
    model = kc.Model(inputs, dense(inputs))
    dense.kernel.assign(weights[:, None])
    model.compile(optimizer, loss=loss)
    return model


def numpy_heun(gradient, p, h, steps):
    for _ in range(steps):
        first = gradient(p)
        second = gradient(p - h * first)
        p = p - h / 2 * (first + second)
    return p


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4))
    return x, x @ np.array([1.0, -2.0, 0.5, 3.0]) + 0.1 * rng.normal(size=40)


def fitted_weights(model, x, y):
    model.fit(x, y, batch_size=len(x), epochs=STEPS, verbose=0)
    return model.get_weights()[0][:, 0]


def test_equals_numpy_on_least_squares(data):
    x, y = data
    start, h = np.array([0.1, 0.2, -0.3, 0.4]), 0.05
    model = linear_model(start, "mse", kc.optimizers.Heun(h))
    expected = numpy_heun(lambda p: 2 / len(x) * x.T @ (x @ p - y), start, h, STEPS)
    actual = fitted_weights(model, x.astype("float32"), y.astype("float32"))
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-5


def test_equals_numpy_on_logistic_regression(data):
    x, y = data
    labels = (y > 0).astype("float64")
    start, h = np.array([0.1, 0.2, -0.3, 0.4]), 0.5
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model = linear_model(start, loss, kc.optimizers.Heun(h))

    def gradient(p):
        return x.T @ (1 / (1 + np.exp(-x @ p)) - labels) / len(x)

    expected = numpy_heun(gradient, start, h, STEPS)
    actual = fitted_weights(model, x.astype("float32"), labels.astype("float32")[:, None])
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-5


def test_order_two_against_the_exact_flow_of_a_quadratic():
    """L = sum(a p^2) / 2 has the flow p(t) = exp(-a t) p(0)."""
    a, start, time = np.array([1.0, 2.0, 3.0]), np.array([1.0, -1.5, 2.0]), 1.0
    x = np.sqrt(np.diag(a) * len(a) / 2).astype("float32")
    exact = np.exp(-a * time) * start
    errors = []
    for steps in (24, 48, 96):
        model = linear_model(start, "mse", kc.optimizers.Heun(time / steps))
        model.fit(x, np.zeros((3, 1), "float32"), batch_size=3, epochs=steps, verbose=0)
        errors.append(np.linalg.norm(model.get_weights()[0][:, 0] - exact))
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all((slopes > 1.9) & (slopes < 2.1)), slopes


def test_follows_a_learning_rate_schedule(data):
    x, y = data
    start = np.zeros(4)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.05, 0.01])
    model = linear_model(start, "mse", kc.optimizers.Heun(schedule))
    model.fit(x.astype("float32"), y.astype("float32"), batch_size=40, epochs=20, verbose=0)

    def gradient(p):
        return 2 / len(x) * x.T @ (x @ p - y)

    middle = numpy_heun(gradient, start, 0.05, 10)
    expected = numpy_heun(gradient, middle, 0.01, 10)
    actual = model.get_weights()[0][:, 0]
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-5


def test_over_momentum_the_mean_gradient_is_what_momentum_gets(data):
    x, y = data
    start, h, momentum = np.zeros(4), 0.02, 0.9
    optimizer = kc.optimizers.Heun(keras.optimizers.SGD(h, momentum=momentum))
    actual = fitted_weights(
        linear_model(start, "mse", optimizer), x.astype("float32"), y.astype("float32")
    )

    p, velocity = start, np.zeros(4)
    for _ in range(STEPS):
        first = 2 / len(x) * x.T @ (x @ p - y)
        second = 2 / len(x) * x.T @ (x @ (p - h * first) - y)
        velocity = momentum * velocity - h * (first + second) / 2
        p = p + velocity
    assert np.linalg.norm(actual - p) / np.linalg.norm(p) < 1e-5


@pytest.mark.parametrize("inner", ["adam", "adamw", "rmsprop", "lion", "adagrad", "Lamb"])
def test_runs_over_optimizers_by_name(inner, data):
    x, y = data
    model = linear_model(np.zeros(4), "mse", kc.optimizers.Heun(inner))
    model.optimizer.learning_rate = 0.05
    history = model.fit(x, y, batch_size=40, epochs=30, verbose=0).history["loss"]
    assert type(model.optimizer.inner_optimizer).__name__.lower() == inner.lower()
    assert history[-1] < 0.9 * history[0]


def test_clipping_decay_and_ema_are_the_inner_optimizers(data):
    x, y = data
    inner = keras.optimizers.SGD(
        0.05, weight_decay=0.1, global_clipnorm=0.5, use_ema=True, ema_overwrite_frequency=None
    )
    model = linear_model(np.ones(4), "mse", kc.optimizers.Heun(inner))
    model.fit(x.astype("float32"), y.astype("float32"), batch_size=40, epochs=3, verbose=0)

    p, average = np.ones(4), None
    for step in range(3):
        first = 2 / len(x) * x.T @ (x @ p - y)
        mean = (first + 2 / len(x) * x.T @ (x @ (p - 0.05 * first) - y)) / 2
        mean *= min(1, 0.5 / np.linalg.norm(mean))
        p = p - p * 0.1 * 0.05
        p = p - 0.05 * mean
        average = p if step == 0 else 0.99 * average + 0.01 * p
    np.testing.assert_allclose(model.get_weights()[0][:, 0], average, rtol=1e-5)


def test_the_learning_rate_reads_and_writes_through(data):
    x, y = data
    model = linear_model(np.zeros(4), "mse", kc.optimizers.Heun(0.05))
    seen = []
    model.fit(
        x,
        y,
        batch_size=40,
        epochs=3,
        verbose=0,
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 / (epoch + 1)),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: seen.append(logs["learning_rate"])
            ),
        ],
    )
    np.testing.assert_allclose(seen, [0.05, 0.025, 0.05 / 3], rtol=1e-6)
    inner = model.optimizer.inner_optimizer
    np.testing.assert_allclose(float(ops.convert_to_numpy(inner.learning_rate)), 0.05 / 3)
    assert int(model.optimizer.iterations) == int(inner.iterations) == 3
    for setting in ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm"):
        setattr(model.optimizer, setting, 0.25)
        assert getattr(inner, setting) == getattr(model.optimizer, setting) == 0.25


def test_excluding_from_weight_decay_reaches_the_inner_optimizer(data):
    inputs = keras.Input((4,))
    model = kc.Model(inputs, keras.layers.Dense(1, name="out")(inputs))
    model.set_weights([np.ones((4, 1)), np.ones(1)])
    optimizer = kc.optimizers.Heun(keras.optimizers.AdamW(1e-9, weight_decay=1e8))
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    model.compile(optimizer, loss="mse")
    model.fit(*data, batch_size=40, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], 1.0, atol=1e-6)
    np.testing.assert_allclose(model.get_weights()[1], 0.9, atol=1e-6)


def test_the_same_numbers_on_every_backend():
    """Golden numbers from NumPy in float64: a tanh net, 20 steps, no randomness."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(16, 3)), rng.normal(size=(16, 1))
    w1, w2 = rng.normal(size=(3, 5)) * 0.5, rng.normal(size=(5, 1)) * 0.5
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(5, activation="tanh", use_bias=False),
            keras.layers.Dense(1, use_bias=False),
        ]
    )
    model.set_weights([w1, w2])
    kc.inject(model).compile(kc.optimizers.Heun(0.1), loss="mse")
    model.fit(x, y, batch_size=16, epochs=20, verbose=0)

    def gradient(p):
        w1, w2 = p[:15].reshape(3, 5), p[15:].reshape(5, 1)
        hidden = np.tanh(x @ w1)
        error = 2 / len(x) * (hidden @ w2 - y)
        g1 = x.T @ ((error @ w2.T) * (1 - hidden**2))
        return np.concatenate([g1.ravel(), (hidden.T @ error).ravel()])

    expected = numpy_heun(gradient, np.concatenate([w1.ravel(), w2.ravel()]), 0.1, 20)
    actual = np.concatenate([w.ravel() for w in model.get_weights()])
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-5
