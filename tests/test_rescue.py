"""`Rescue`: goes back when training runs off, lowers the rate, and leaves training alone else."""

import contextlib
import warnings

import keras
import numpy as np
import pytest

import keras_cool as kc
from keras_cool.callbacks import LearningRateFinder, Rescue
from support.comparisons import assert_same_bits, everything
from support.models import deep_model, linear_model, optimizer_for, rate_of
from support.replicas import PLACES
from support.ways_to_train import MODELS, WAYS

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]])).astype("float32")
LARGEST_RATE = 2 / np.linalg.eigvalsh(2 * X.T.astype("float64") @ X / len(X))[-1]


def train_under(model, rescue, x=X, y=Y, epochs=6, batch_size=10, callbacks=(), **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callbacks = [rescue, *callbacks] if rescue else list(callbacks)
        arguments = {"shuffle": False, "verbose": 0, **arguments}
        return model.fit(
            x, y, batch_size=batch_size, epochs=epochs, callbacks=callbacks, **arguments
        ).history


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_with_no_trouble_training_is_the_same_to_the_bit(kind, way, tmp_path):
    results = []
    for rescue in (Rescue(frequency=2, keep=tmp_path / "state.npz"), None):
        model = deep_model(MODELS[kind], optimizer_for(way), **WAYS[way])
        history = train_under(model, rescue, epochs=2, shuffle=True)
        results.append({**everything(model), **history})
    assert_same_bits(*results)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_rate_that_is_too_large_is_lowered_until_training_converges(kind, way):
    """Gradient descent, driven to infinity by 1e10 times the largest stable rate."""
    model = linear_model(
        keras.optimizers.SGD(1e10 * LARGEST_RATE), MODELS[kind], start="ones", **WAYS[way]
    )
    rescue = Rescue(patience=20, factor=1e-3, frequency=2)
    history = train_under(model, rescue, epochs=12)
    assert 3 <= len(rescue.rescues) <= 5
    assert not rescue.gave_up
    lowered = 1e10 * LARGEST_RATE * 1e-3 ** len(rescue.rescues)
    assert rate_of(model) == pytest.approx(lowered, rel=1e-5)
    assert [r["learning_rate"] for r in rescue.rescues] == pytest.approx(
        [1e10 * LARGEST_RATE * 1e-3 ** (i + 1) for i in range(len(rescue.rescues))], rel=1e-5
    )
    assert history["loss"][-1] < history["loss"][-3]
    assert np.isfinite(model.get_weights()[0]).all()


class Spoils(keras.callbacks.Callback):
    """Sets the weights to NaN at one step of one epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.where, self.epoch = (epoch, batch), None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.where:
            self.rate = rate_of(self.model)
            for variable in self.model.trainable_variables:
                variable.assign(np.full(variable.shape, np.nan, "float32"))


def sgd(rate):
    return keras.optimizers.SGD(rate, momentum=0.5)


def numpy_momentum(batches, rates, size=10, rescued=None):
    """Keras' momentum, whose velocity holds the rate: before the step `rescued` both are halved."""
    w, velocity = np.ones((3, 1)), np.zeros((3, 1))
    for step, (batch, rate) in enumerate(zip(batches, rates, strict=True)):
        samples = slice(size * batch, size * batch + size)
        x, y = X[samples].astype("float64"), Y[samples]
        velocity = velocity / 2 if step == rescued else velocity
        velocity = 0.5 * velocity - rate * 2 / len(x) * x.T @ (x @ w - y)
        w = w + velocity
    return w


@pytest.mark.parametrize("keep", ["device", "disk"])
def test_it_goes_on_from_the_last_good_state_with_the_next_batches(keep, tmp_path):
    model = linear_model(sgd(0.1), start="ones")
    path = tmp_path / "states" / "good.npz"
    rescue = Rescue(frequency=2, keep="device" if keep == "device" else path)
    history = train_under(model, rescue, epochs=2, callbacks=[Spoils(1, 1)])
    # Good after two steps and after four; the second epoch's first two steps are undone.
    rates = [0.1, 0.1, 0.1, 0.1, 0.05, 0.05]
    expected = numpy_momentum([0, 1, 2, 3, 2, 3], rates, rescued=4)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)
    assert [(r["epoch"], r["step"]) for r in rescue.rescues] == [(1, 2)]
    assert "weights are not finite" in rescue.report()
    assert np.isfinite(history["loss"]).all()  # the epoch's mean is that of the steps that hold
    assert not path.exists()


def test_a_state_whose_last_update_blew_it_up_is_not_taken_for_good():
    """Weights of 1e12 are finite, and the loss before that update was in order."""

    class BlowsUp(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch in (1, 2):
                self.model.optimizer.learning_rate = 1e12 if batch == 1 else 0.1

    model = linear_model(sgd(0.1), start="ones")
    rescue = Rescue(frequency=1)
    # The second step blows up the weights, and the third one sees it.
    train_under(model, rescue, epochs=1, callbacks=[BlowsUp()])
    assert [(r["step"], r["learning_rate"]) for r in rescue.rescues] == [(3, pytest.approx(0.05))]
    np.testing.assert_allclose(
        model.get_weights()[0], numpy_momentum([0, 3], [0.1, 0.05], rescued=1), rtol=1e-5
    )


def test_once_an_epoch_it_goes_back_to_the_end_of_the_last_one():
    model = linear_model(sgd(0.1), start="ones")
    rescue = Rescue()
    history = train_under(model, rescue, epochs=3, callbacks=[Spoils(1, 2)], validation_data=(X, Y))
    expected = numpy_momentum([0, 1, 2, 3] * 2, [0.1] * 4 + [0.05] * 4, rescued=4)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)
    assert [(r["epoch"], r["step"]) for r in rescue.rescues] == [(1, None)]
    # The validation of the bad epoch is that of the good state again.
    assert history["val_loss"][1] == history["val_loss"][0]


def test_an_exploding_loss_that_is_still_finite():
    model = linear_model(sgd(3 * LARGEST_RATE), start="ones")
    rescue = Rescue(factor=0.1)
    history = train_under(model, rescue, epochs=12)
    assert "the loss has exploded" in rescue.rescues[0]["trouble"]
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0] / 10
    rescue = Rescue(divergence_ratio=None)
    train_under(linear_model(sgd(3 * LARGEST_RATE), start="ones"), rescue, epochs=3)
    assert not rescue.rescues


@pytest.mark.parametrize("kind", MODELS)
def test_it_gives_up_after_its_patience_with_a_report(kind):
    y = Y.copy()
    y[15] = np.nan  # in every epoch
    model = linear_model("sgd", MODELS[kind], start="ones")
    rescue = Rescue(patience=2, frequency=1)
    with pytest.warns(UserWarning, match="Rescue gave up in epoch 3, after 2 steps: the weights"):
        history = model.fit(
            X, y, batch_size=10, epochs=6, shuffle=False, callbacks=[rescue], verbose=0
        )
    assert rescue.gave_up
    assert len(history.history["loss"]) == 3
    assert np.isfinite(model.get_weights()[0]).all()
    report = rescue.report().splitlines()
    assert [line.split(":")[0] for line in report[:2]] == [
        "epoch 1, after 2 steps",
        "epoch 2, after 2 steps",
    ]
    assert "It had gone back 2 times, which is its `patience`" in report[2]


SKIPPING = {
    "heun": lambda: kc.optimizers.Heun(0.1),
    "accumulate": lambda: kc.optimizers.Accumulate("sgd", 2),
    "loss-scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
}


@pytest.mark.parametrize("name", SKIPPING)
def test_a_bad_batch_that_the_optimizer_skips_is_no_trouble(name):
    y = Y.copy()
    y[15] = np.nan
    rescue = Rescue(frequency=1)
    model = linear_model(SKIPPING[name](), kc.Model, start="ones")
    train_under(model, rescue, y=y, epochs=3)
    assert not rescue.rescues
    assert np.isfinite(model.get_weights()[0]).all()


def test_an_epoch_of_skipped_steps_is_trouble():
    model = linear_model(kc.optimizers.Heun(0.1), kc.Model, start="ones")
    rescue = Rescue(patience=1)
    train_under(model, rescue, y=np.full_like(Y, np.nan), epochs=4)
    assert rescue.gave_up
    assert rescue.rescues[0]["trouble"] == "the loss is nan"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_schedule_is_lowered_too(wrapped, tmp_path):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9)
    optimizer = keras.optimizers.SGD(schedule, momentum=0.5)
    optimizer = kc.optimizers.Accumulate(optimizer, 1) if wrapped else optimizer
    model = linear_model(optimizer, kc.Model, start="ones")
    train_under(model, Rescue(frequency=2), epochs=2, callbacks=[Spoils(1, 1)])
    # Two steps are undone, and the schedule goes back with `iterations`.
    rates = 0.1 * 0.9 ** np.arange(6) * [1, 1, 1, 1, 0.5, 0.5]
    expected = numpy_momentum([0, 1, 2, 3, 2, 3], rates, rescued=4)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert rate_of(loaded) == pytest.approx(0.05 * 0.9**6, rel=1e-5)


def test_a_controlled_step_size_is_lowered():
    model = linear_model(kc.optimizers.RK45(0.01), kc.Model, start="ones")
    rescue, spoils = Rescue(frequency=2), Spoils(1, 1)
    train_under(model, rescue, epochs=2, callbacks=[spoils])
    assert rescue.rescues[0]["learning_rate"] == pytest.approx(spoils.rate / 2)
    assert np.isfinite(model.get_weights()[0]).all()


@pytest.mark.parametrize("place", PLACES[1:2])
def test_on_several_devices_a_range_test_and_then_a_rescue(place):
    with place():
        model = linear_model(sgd(0.1), start="ones")
        finder = LearningRateFinder(1e-3, 0.1, steps=4)
        model.fit(X, Y, batch_size=8, shuffle=False, callbacks=[finder], verbose=0)
        first = X[:8].astype("float64") @ np.ones((3, 1)) - Y[:8]
        assert finder.data()["losses"][0] == pytest.approx(np.mean(first**2), rel=1e-5)
        rescue = Rescue(frequency=2)
        history = train_under(model, rescue, epochs=2, batch_size=8, callbacks=[Spoils(1, 1)])
    # Good after two steps, four, and the epoch's five.
    batches, rates = [0, 1, 2, 3, 4, 2, 3, 4], [0.1] * 5 + [0.05] * 3
    expected = numpy_momentum(batches, rates, size=8, rescued=5)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)
    assert [(r["epoch"], r["step"]) for r in rescue.rescues] == [(1, 2)]
    assert np.isfinite(history["loss"]).all()


class Sets(keras.callbacks.Callback):
    """Sets the learning rate at steps of epochs, before anything else."""

    def __init__(self, rates):
        super().__init__()
        self.rates = rates

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) in self.rates:
            self.model.optimizer.learning_rate = self.rates[self.epoch, batch]


MOMENTUM = {
    "sgd": lambda: keras.optimizers.SGD(5.0, momentum=0.9),
    "heun": lambda: kc.optimizers.Heun(keras.optimizers.SGD(5.0, momentum=0.9)),
}


@pytest.mark.parametrize("name", MOMENTUM)
def test_momentum_is_lowered_with_the_rate(name):
    """A velocity at the old rate would drive the weights off again, whatever the new rate."""
    model = linear_model(MOMENTUM[name](), kc.Model, start="ones")
    rescue = Rescue(patience=4, factor=0.01, frequency=2, states=1)
    history = train_under(model, rescue, epochs=16)
    assert 1 <= len(rescue.rescues) <= 3
    assert history["loss"][-1] < 0.2 * history["loss"][0]


def test_a_state_from_the_beginning_of_an_explosion_is_left_behind():
    """One step at 30 times the largest stable rate; the loss after it is far off, and in order."""
    model = linear_model(keras.optimizers.SGD(0.1), start="ones")
    rescue = Rescue(frequency=1, divergence_ratio=1000.0)
    spike = {(1, 0): 30 * LARGEST_RATE, (1, 1): 3 * LARGEST_RATE}
    history = train_under(model, rescue, epochs=12, callbacks=[Sets(spike)])
    assert 1 <= len(rescue.rescues) <= 2
    assert rate_of(model) <= 0.1001  # that of the state before, and not half of the one that came
    assert history["loss"][-1] < history["loss"][0] / 10


@pytest.mark.parametrize("keep", ["device", "disk"])
def test_it_goes_back_further_if_trouble_comes_back_at_once(keep, tmp_path):
    """Whatever follows the second epoch is trouble: from its states none is good."""

    class Bad(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_begin(self, batch, logs=None):
            where = (self.epoch, batch)
            if where == (1, 0):
                self.before = self.model.get_weights()[0]
            if where in ((1, 1), (1, 2), (1, 3)):
                self.model.set_weights([np.full((3, 1), np.nan, "float32")])

    path = tmp_path / "good.npz"
    model, bad = linear_model(keras.optimizers.SGD(0.01), start="ones"), Bad()
    rescue = Rescue(frequency=1, keep="device" if keep == "device" else path)
    numbers = []
    put_back = rescue._good.put_back

    def noted(further=False):
        numbers.append((put_back(further)).number)
        return rescue._good._last

    rescue._good.put_back = noted
    train_under(model, rescue, epochs=2, callbacks=[bad])
    assert len(rescue.rescues) == 3
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) == 3
    assert np.isfinite(model.get_weights()[0]).all()
    assert not list(tmp_path.iterdir())


def test_the_best_loss_is_that_of_the_state_gone_back_to():
    """A loss that an older state has always had is no explosion of a later one."""
    model = linear_model(keras.optimizers.SGD(0.1), start="ones")
    rescue, best = Rescue(frequency=1), []

    class Moves(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            best.append(rescue._saved["best"])
            if batch in (12, 14):  # trouble, and at once again: from no state since
                model.set_weights([np.full((3, 1), np.nan, "float32")])

    x, y = np.tile(X[:10], (40, 1)), np.tile(Y[:10], (40, 1))  # one batch: the loss only falls
    train_under(model, rescue, x, y, epochs=1, callbacks=[Moves()])
    assert len(rescue.rescues) == 2
    assert best[15] > best[13] > best[12]


def several(optimizer):
    """The rates of both layers' weights, 1e4 times the largest stable one."""
    second = keras.optimizers.SGD(1e4 * LARGEST_RATE, momentum=0.9)
    chosen = keras.optimizers.OptimizerMap(optimizer, {".*bias": second})
    return keras.optimizers.MultiOptimizer(chosen), second


AROUND = {
    "alone": lambda optimizer: optimizer,
    "loss-scale": lambda optimizer: keras.optimizers.LossScaleOptimizer(optimizer, 8.0),
    "accumulate": lambda optimizer: kc.optimizers.Accumulate(optimizer, 1),
}


@pytest.mark.multi_optimizer
@pytest.mark.parametrize("name", AROUND)
def test_all_rates_of_a_multi_optimizer_are_lowered(name):
    first = keras.optimizers.SGD(1e4 * LARGEST_RATE, momentum=0.9)
    optimizer, second = several(first)
    keras.utils.set_random_seed(0)
    model = kc.Model(inputs := keras.Input((3,)), keras.layers.Dense(1)(inputs))
    model.compile(AROUND[name](optimizer), loss="mse")
    rescue = Rescue(patience=9, factor=1e-2, frequency=2)
    history = train_under(model, rescue, epochs=12)
    lowered = 1e4 * LARGEST_RATE * 1e-2 ** len(rescue.rescues)
    for each in (first, second):
        assert float(each.learning_rate) == pytest.approx(lowered, rel=1e-5)
    assert not rescue.gave_up and history["loss"][-1] < history["loss"][0]


class TwoOptimizers(kc.Model):
    """Each layer has an optimizer of its own, as in a GAN."""

    def __init__(self, second):
        super().__init__()
        self.hidden, self.head = keras.layers.Dense(4), keras.layers.Dense(1)
        self(X)
        self.second = second
        second.build(self.head.trainable_variables)

    def call(self, x):
        return self.head(self.hidden(x))

    def multi_gradient_step(self, x, y, sample_weight):
        loss = None
        for layer, optimizer in ((self.hidden, self.optimizer), (self.head, self.second)):
            variables = layer.trainable_variables
            loss, gradients = self.value_and_grad(
                lambda: self.compute_loss(x, y, self(x, training=True)), variables
            )
            self.apply_gradients(gradients, variables, optimizer)
        return {"loss": loss}


@pytest.mark.parametrize("scheduled", [False, True])
def test_the_rate_of_a_second_optimizer_is_lowered_too(scheduled):
    keras.utils.set_random_seed(0)
    rate = 100.0
    rate = keras.optimizers.schedules.ExponentialDecay(rate, 10**6, 0.5) if scheduled else rate
    model = TwoOptimizers(keras.optimizers.SGD(rate, momentum=0.9))
    model.compile(keras.optimizers.SGD(0.01), loss="mse")
    model.optimizer.build(model.hidden.trainable_variables)
    rescue = Rescue(patience=9, factor=0.1, frequency=2)
    history = train_under(model, rescue, epochs=12)
    found = float(keras.ops.convert_to_numpy(model.second.learning_rate))
    assert found == pytest.approx(100 * 0.1 ** len(rescue.rescues), rel=1e-4)
    assert 2 <= len(rescue.rescues) <= 5 and not rescue.gave_up
    assert history["loss"][-1] < history["loss"][0]


def test_a_step_size_that_is_still_to_be_chosen_stays_so():
    model = linear_model(kc.optimizers.RK45(), kc.Model, start="ones")
    rescue = Rescue(patience=3)
    train_under(model, rescue, y=np.full_like(Y, np.nan), epochs=2)
    assert len(rescue.rescues) == 2
    assert train_under(model, None, epochs=1)["step_size"][0] > 0


@pytest.mark.parametrize("spike", [False, True])
@pytest.mark.parametrize("way", ["skipped", "own"])
def test_a_loss_that_is_nan_hides_nothing_after_it(way, spike):
    """In the first batch of the first epoch, and in one of a later epoch."""
    x = np.concatenate([X] * 6)
    x[0] = x[85] = np.nan
    optimizer = kc.optimizers.Heun(0.1) if way == "skipped" else keras.optimizers.SGD(0.1)
    size = None if way == "skipped" else 5
    model = linear_model(optimizer, kc.Model, start="ones", microbatch_size=size)
    rescue = Rescue(frequency="epoch" if way == "skipped" else 3)
    rates = {(0, 18): 5 * LARGEST_RATE} if spike else {}
    with_rescue = train_under(
        model, rescue, x=x, y=np.tile(Y, (6, 1)), epochs=2, callbacks=[Sets(rates)]
    )
    assert len(rescue.rescues) == (1 if spike else 0)
    assert "exploded" in rescue.report() or not spike
    assert with_rescue["skipped_steps"][0] == 2
    assert np.isnan(with_rescue["loss"][0])


@pytest.mark.parametrize(
    ("losses", "troubles"),
    [
        ([11, 2, 9], [2]),  # far above the best, and below the first
        ([11, 2, 5], []),
        ([11, 1e-6, 1e-4, 2], []),  # near zero a loss may well vary
        ([11, 1e-6, 1e-4, 7], [3]),
        ([5, 3, 9, 2, 9, 3, 8], []),  # noise
        ([5, 3, 9, 2, 9, 3, 60], [6]),
    ],
)
def test_which_losses_have_exploded(losses, troubles):
    rescue, found = Rescue(), []
    for i, loss in enumerate(losses):
        if rescue._has_exploded(loss):
            found.append(i)
        else:
            rescue._take_down(float(loss))
    assert found == troubles


class Interrupts(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise InterruptedError


def test_it_goes_on_after_an_interruption(tmp_path):
    def train(callbacks, epochs):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9)
        model = linear_model(keras.optimizers.SGD(schedule), start="ones")
        rescue = Rescue(patience=2, frequency=1)
        spoils = [Spoils(0, 1), Spoils(3, 0)]
        with contextlib.suppress(InterruptedError):
            train_under(model, rescue, epochs=epochs, callbacks=[*spoils, *callbacks])
        return model, rescue

    whole, rescue = train([], 4)
    assert len(rescue.rescues) == 2
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    train([backup, Interrupts()], 4)
    resumed, second = train([keras.callbacks.BackupAndRestore(tmp_path / "backup")], 4)
    np.testing.assert_array_equal(resumed.get_weights()[0], whole.get_weights()[0])
    assert rate_of(resumed) == rate_of(whole)
    assert len(second.rescues) == 1
    assert not second.gave_up


@pytest.mark.backend("tensorflow")
def test_a_model_that_is_built_by_its_first_step():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(sgd(0.1), loss="mse")
    rescue = Rescue(frequency=1)
    train_under(model, rescue, epochs=1, callbacks=[Spoils(0, 1)])
    assert len(rescue.rescues) == 1
    assert not rescue.gave_up


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": -1},
        {"patience": 1.5},
        {"factor": 1.0},
        {"factor": 0},
        {"divergence_ratio": 1},
        {"frequency": 0},
        {"keep": "good.weights.h5"},
        {"states": 0},
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match="It was given"):
        Rescue(**arguments)


def test_a_rate_that_is_a_function():
    model = linear_model(keras.optimizers.SGD(lambda: 0.1))
    with pytest.raises(ValueError, match="is the function .* a LearningRateSchedule"):
        train_under(model, Rescue())
