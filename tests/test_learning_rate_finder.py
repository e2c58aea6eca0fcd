"""`LearningRateFinder`: exact losses, a rate that trains, and no trace of the test."""

import contextlib
import warnings

import keras
import numpy as np
import pytest

import keras_cool as kc
from keras_cool.callbacks import LearningRateFinder
from keras_cool.callbacks.shared.rate_range import smoothed_losses, steepest_descent
from support.comparisons import assert_all_equal, assert_same_bits, everything
from support.models import deep_model, linear_model, optimizer_for, rate_of
from support.ways_to_train import BACKEND, MODELS, WAYS

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]]) + 0.1 * RNG.normal(size=(40, 1))).astype("float32")
SINGLE_STEPS = {name: way for name, way in WAYS.items() if name != "two-steps"}


def run_test(model, finder=None, epochs=4, **arguments):
    finder = finder or LearningRateFinder(1e-4, 0.1, steps=5, divergence=1e3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LearningRateFinder has no rate")
        model.fit(X, Y, batch_size=15, epochs=epochs, callbacks=[finder], verbose=0, **arguments)
    return finder


@pytest.mark.parametrize("way", SINGLE_STEPS)
@pytest.mark.parametrize("kind", MODELS)
def test_training_after_it_is_the_same_to_the_bit(kind, way):
    results = []
    for finds in (True, False):
        model = deep_model(MODELS[kind], optimizer_for(way), **SINGLE_STEPS[way])
        if finds:
            finder = run_test(model)
            assert len(finder.data()["rates"]) == 5
        history = model.fit(X, Y, batch_size=15, verbose=0)
        results.append({**everything(model), **history.history})
    assert_same_bits(*results)


OPTIMIZERS = {
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9
    ),
    "ema": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=None),
    "heun": lambda: kc.optimizers.Heun("adam"),
    "accumulate": lambda: kc.optimizers.Accumulate("adam", 2),
    "keras-accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "loss-scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_leaves_no_trace_in_a_model_that_has_been_trained(name):
    model = deep_model(kc.Model, OPTIMIZERS[name](), run_eagerly=BACKEND == "torch")
    if name == "ema":  # a second `fit` of Keras' own fails on JAX then
        model.optimizer.build(model.trainable_variables)
        model.evaluate(X, Y, verbose=0)
    else:
        model.fit(X, Y, batch_size=15, verbose=0)
    expected = everything(model)
    rate = rate_of(model)
    finder = run_test(model, validation_data=(X, Y) if name == "ema" else None)
    values = everything(model)
    assert_same_bits(values, expected)
    assert rate_of(model) == rate
    np.testing.assert_allclose(finder.data()["rates"], np.geomspace(1e-4, 0.1, 5), rtol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_rates_and_losses_are_those_of_numpy(kind):
    finder = LearningRateFinder(1e-3, 0.1, steps=12, smoothing=0.5)
    model = linear_model("sgd", MODELS[kind])
    model.fit(X, Y, batch_size=9, epochs=3, shuffle=False, callbacks=[finder], verbose=0)
    rates, losses, w = [], [], np.zeros((3, 1))
    for i in range(12):
        batch = slice(9 * (i % 5), 9 * (i % 5) + 9)  # the last one of an epoch has 4 samples
        x, y = X[batch].astype("float64"), Y[batch]
        error = x @ w - y
        rates.append(1e-3 * 100 ** (i / 11))
        losses.append(np.mean(error**2))
        w -= rates[-1] * 2 / len(x) * x.T @ error
    data = finder.data()
    np.testing.assert_allclose(data["rates"], rates, rtol=1e-6)
    np.testing.assert_allclose(data["losses"], losses, rtol=1e-5)
    smoothed = [
        sum(0.5 ** (i - j) * losses[j] for j in range(i + 1))
        / sum(0.5 ** (i - j) for j in range(i + 1))
        for i in range(12)
    ]
    np.testing.assert_allclose(data["smoothed_losses"], smoothed, rtol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_under_accumulation_a_rate_lasts_a_window_and_the_loss_is_the_windows(kind):
    model = linear_model(kc.optimizers.Accumulate("sgd", 2, last_window="carry"), MODELS[kind])
    x, y = X[:30], Y[:30]
    finder = LearningRateFinder(1e-3, 0.1, steps=4)
    # 3 batches an epoch: the second window lies across the end of the first epoch.
    model.fit(x, y, batch_size=10, epochs=3, shuffle=False, callbacks=[finder], verbose=0)
    losses, w = [], np.zeros((3, 1))
    for i in range(4):
        rows = np.concatenate([np.arange(10) + 10 * (j % 3) for j in (2 * i, 2 * i + 1)])
        error = x[rows].astype("float64") @ w - y[rows]
        losses.append(np.mean(error**2))
        w -= 1e-3 * 100 ** (i / 3) * 2 / 20 * x[rows].T @ error
    np.testing.assert_allclose(finder.data()["losses"], losses, rtol=1e-5)


def test_the_loss_turns_up_where_gradient_descent_diverges():
    """Full-batch least squares diverges above 2 / lambda_max of the Hessian."""
    largest = 2 / np.linalg.eigvalsh(2 * X.T.astype("float64") @ X / len(X))[-1]
    finder = LearningRateFinder(1e-2 * largest, 1e2 * largest, steps=100)
    model = linear_model("sgd", start="ones")
    model.fit(X, Y, batch_size=40, epochs=100, callbacks=[finder], verbose=0)
    rates, losses, _ = finder.data().values()
    # The last rate whose loss is near the least one: rounding errors need some steps to grow.
    turn = rates[np.flatnonzero(losses < 1.01 * losses.min())[-1]]
    assert largest < turn < 4 * largest
    assert len(rates) < 90  # it stopped on divergence
    assert largest / 100 < finder.suggestion < largest
    model.optimizer.learning_rate = finder.suggestion
    history = model.fit(X, Y, batch_size=40, epochs=50, verbose=0).history["loss"]
    assert history[-1] < history[0] / 5


def test_a_loss_that_is_not_finite_ends_the_test():
    finder = LearningRateFinder(1e-2, 1e30, steps=60, divergence=1e38)
    run_test(linear_model("sgd"), finder, epochs=20)
    losses = finder.data()["losses"]
    assert 3 < len(losses) < 60
    assert not np.isfinite(losses[-1])
    assert np.isfinite(losses[:-1]).all()


def test_smoothing_of_a_constant_is_the_constant():
    np.testing.assert_allclose(smoothed_losses([3.0] * 5, 0.9), 3.0)


def test_the_suggestion_begins_the_steepest_stretch():
    rates = np.geomspace(1e-5, 1, 101)
    loss = 1 / (1 + np.exp(3 * (np.log(rates) - np.log(1e-2))))  # steepest at 1e-2
    assert steepest_descent(rates, loss, 0.0) == pytest.approx(1e-2, rel=0.13)
    # A stretch of 10 updates lies half on each side.
    assert steepest_descent(rates, loss, 0.9) == pytest.approx(rates[60 - 5])
    assert steepest_descent(rates, -loss, 0.9) is None


def test_a_first_loss_that_lies_far_off_is_not_taken_for_a_descent():
    rates = np.geomspace(1e-5, 1, 101)
    losses = 1 / (1 + np.exp(3 * (np.log(rates) - np.log(1e-2))))
    losses[0], losses[1] = 3.0, -2.0
    smoothed = smoothed_losses(losses, 0.9)
    assert 1e-3 < steepest_descent(rates, smoothed, 0.9) < 2e-2


def test_too_few_epochs_are_named_and_leave_no_trace():
    model = linear_model("sgd")
    finder = LearningRateFinder(1e-3, 0.1, steps=20)
    with pytest.warns(UserWarning, match="took 5 of its 20 updates.*more `epochs`"):
        model.fit(X, Y, batch_size=9, callbacks=[finder], verbose=0)
    assert len(finder.data()["rates"]) == 5
    assert not model.get_weights()[0].any()


class Fails(keras.callbacks.Callback):
    """Raises what a user or another callback may raise, at one station of the second epoch."""

    def __init__(self, station):
        super().__init__()
        self.epoch = 0
        setattr(self, station, self._fail)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def _fail(self, index=0, logs=None):
        if self.epoch == 1:
            raise KeyboardInterrupt


def failing_batches():
    for batch in range(20):
        if batch == 8:
            raise KeyboardInterrupt
        yield X[:8], Y[:8]


STATIONS = ("on_train_batch_begin", "on_train_batch_end", "on_test_begin", "on_epoch_end")


@pytest.mark.parametrize("where", [*STATIONS, "data"])
@pytest.mark.parametrize("kind", MODELS)
def test_an_interrupted_test_leaves_no_trace(kind, where):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    rate = schedule if where in ("data", "on_epoch_end") else 0.1
    model = deep_model(MODELS[kind], keras.optimizers.SGD(rate, momentum=0.9))
    model.fit(X, Y, verbose=0)
    before, rate_before = everything(model), rate_of(model)
    finder = LearningRateFinder(1e-3, 0.1, steps=15, divergence=1e6)
    arguments = {"x": X, "y": Y, "batch_size": 9, "validation_data": (X, Y)}
    if where == "data":
        arguments = {"x": failing_batches(), "steps_per_epoch": 5}
    callbacks = [finder] if where == "data" else [finder, Fails(where)]
    with contextlib.suppress(BaseException):  # TensorFlow makes it an error of its own in the data
        model.fit(**arguments, epochs=3, callbacks=callbacks, verbose=0)
        pytest.fail("It was not interrupted.")
    assert len(finder.data()["rates"]) >= 5
    assert_same_bits(everything(model), before)
    assert rate_of(model) == rate_before
    # And nothing is put back any more by what comes later.
    model.fit(X, Y, verbose=0)
    after = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=2, callbacks=[Fails("on_epoch_end")], verbose=0)
    assert any((a != b).any() for a, b in zip(model.get_weights(), after, strict=True))


def test_a_finder_that_is_given_alone_and_not_in_a_list():
    model = linear_model("sgd")
    finder = LearningRateFinder(1e-3, 0.1, steps=6)
    model.fit(X, Y, batch_size=9, epochs=2, callbacks=finder, verbose=0)
    assert len(finder.data()["rates"]) == 6
    assert not model.get_weights()[0].any()


def test_the_picture(tmp_path):
    finder = run_test(linear_model("sgd"))
    path = finder.plot(tmp_path / "pictures" / "test.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"\.png or \.svg or \.pdf"):
        finder.plot(tmp_path / "test.txt")


@pytest.mark.parametrize(
    "arguments",
    [(0.1, 0.01), (0.0, 1.0), (1e-3, np.inf), (1e-3, 1.0, 2), (1e-3, 1.0, 10, 1.0)],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match="It was|They were"):
        LearningRateFinder(*arguments)


@pytest.mark.backend("jax", "tensorflow")
def test_several_steps_per_execution_share_a_rate():
    model = linear_model("sgd", steps_per_execution=2)
    with pytest.raises(ValueError, match="steps_per_execution=2: so many steps would share"):
        run_test(model)


def test_an_optimizer_that_chooses_its_step_size():
    model = linear_model(kc.optimizers.RK45(0.1), kc.Model)
    with pytest.raises(ValueError, match="RK45 chooses them itself.*adaptive=False"):
        run_test(model)


@pytest.mark.backend("tensorflow")
def test_a_model_without_weights():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match=r"keras\.Input\(shape\)"):
        run_test(model)


def test_two_in_one_fit_are_refused():
    model = deep_model(keras.Model, keras.optimizers.SGD(0.1))
    finders = [kc.callbacks.LearningRateFinder(1e-3, 1.0, steps=5) for _ in range(2)]
    with pytest.raises(ValueError, match="Give each a `fit` of its own"):
        model.fit(X, Y, epochs=10, callbacks=finders, verbose=0)


def test_a_fit_without_an_epoch():
    model = deep_model(keras.Model, keras.optimizers.SGD(0.1))
    before = model.get_weights()
    with pytest.warns(UserWarning, match="took 0 of its 100 updates"):
        model.fit(X, Y, epochs=0, callbacks=[kc.callbacks.LearningRateFinder(1e-3, 1.0)], verbose=0)
    assert_all_equal(model.get_weights(), before)
