"""`Warmup`, `Cycle` and `OneCycle`: the learning rate of each update, and what it does.

References: the formulas in NumPy (float64), Keras' own schedules and, on PyTorch, its schedulers.
The model has one weight, and its loss is its output: plain gradient descent takes the learning rate
from the weight at each step.
"""

import math

import keras
import numpy as np
import pytest

import keras_cool as kc
from keras_cool.optimizers.schedules import Cycle, OneCycle, Warmup
from support.ways_to_train import MODELS, WAYS

schedules = keras.optimizers.schedules
RAMPS = {"linear": lambda p: p, "cosine": lambda p: (1 - np.cos(np.pi * p)) / 2}
EVERY = {
    "warmup": Warmup(0.4, 4, initial=0.1),
    "warmup-cosine": Warmup(schedules.ExponentialDecay(0.4, 3, 0.5), 4, shape="cosine"),
    "cycle": Cycle(0.1, 0.5, 4, decay=0.5),
    "one-cycle": OneCycle(0.5, 8),
}


def rates(schedule, steps):
    """The learning rates, one after another, as an optimizer calls for them: by an integer."""
    step = keras.Variable(0, dtype="int32", trainable=False)
    values = []
    for t in range(steps):
        step.assign(t)
        values.append(float(schedule(step)))
    return np.array(values)


def one_weight(kind="plain", optimizer=None, **way):
    inputs = keras.Input((1,))
    outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs)
    model = MODELS[kind](inputs, outputs)
    model.compile(optimizer, loss=lambda y, p: p, **(way or {"run_eagerly": True}))
    return model


def weights_after_epochs(model, *callbacks, batches=4, epochs=2):
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(float(model.get_weights()[0][0, 0]))
    )
    x = np.ones((batches, 1), "float32")
    model.fit(x, x, batch_size=1, epochs=epochs, verbose=0, callbacks=[*callbacks, look])
    return seen


# ------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("shape", RAMPS)
@pytest.mark.parametrize("initial", [0.0, 0.25])
def test_warmup_multiplies_its_own_schedule(initial, shape):
    own = schedules.CosineDecay(0.3, 12)
    t = np.arange(16)
    factor = initial + (1 - initial) * RAMPS[shape](np.minimum(t / 5, 1))
    ours = rates(Warmup(own, 5, initial, shape), 16)
    expected = factor * 0.3 * (1 + np.cos(np.pi * np.minimum(t / 12, 1))) / 2
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(ours[5:], rates(own, 16)[5:])  # then it is the own one


def test_warmup_counts_as_keras_cosine_decay_does():
    keras_own = schedules.CosineDecay(0.05, 10**6, warmup_target=0.2, warmup_steps=7)
    ours = Warmup(0.2, 7, initial=0.25)
    np.testing.assert_allclose(rates(ours, 8), rates(keras_own, 8), rtol=1e-6)


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("steps", [6, 7])
def test_triangular_cycle_is_the_one_of_smith(steps, decay):
    t, stepsize = np.arange(40), steps / 2
    cycle = np.floor(1 + t / (2 * stepsize))  # the code in section 3.2 of the paper
    height = np.maximum(0, 1 - np.abs(t / stepsize - 2 * cycle + 1))
    expected = 0.01 + (0.2 - 0.01) * height * decay ** (cycle - 1)
    np.testing.assert_allclose(rates(Cycle(0.01, 0.2, steps, decay=decay), 40), expected, rtol=2e-5)


def test_cosine_cycle():
    t = np.arange(30)
    expected = 0.01 + (0.2 - 0.01) * (1 - np.cos(2 * np.pi * t / 9)) / 2
    np.testing.assert_allclose(rates(Cycle(0.01, 0.2, 9, "cosine"), 30), expected, rtol=2e-5)


def test_cycles_far_on_are_as_exact_as_the_first():
    schedule, start = Cycle(0.0, 1.0, 1000), 10**8
    assert [round(float(schedule(start + t)), 6) for t in (0, 1, 500, 999)] == [0, 0.002, 1, 0.002]


@pytest.mark.parametrize("shape", RAMPS)
@pytest.mark.parametrize(("steps", "pct_start"), [(20, 0.3), (33, 0.41)])
def test_one_cycle_rises_and_falls(steps, pct_start, shape):
    t, top = np.arange(steps + 5), pct_start * steps - 1
    first, last = 0.7 / 25, 0.7 / 25 / 1e4
    rise = first + (0.7 - first) * RAMPS[shape](np.clip(t / top, 0, 1))
    fall = 0.7 + (last - 0.7) * RAMPS[shape](np.clip((t - top) / (steps - 1 - top), 0, 1))
    ours = rates(OneCycle(0.7, steps, pct_start, shape=shape), steps + 5)
    np.testing.assert_allclose(ours, np.where(t <= top, rise, fall), rtol=2e-5)


@pytest.mark.backend("torch")
@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_the_same_as_the_schedulers_of_torch(shape):
    import torch

    def of_torch(scheduler, steps, **arguments):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
        scheduler = scheduler(optimizer, cycle_momentum=False, **arguments)
        values = []
        for _ in range(steps):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return values

    lr_scheduler = torch.optim.lr_scheduler
    strategy = {"cosine": "cos", "linear": "linear"}[shape]
    for steps, pct_start in ((20, 0.3), (33, 0.41)):
        expected = of_torch(
            lr_scheduler.OneCycleLR,
            steps,
            max_lr=0.7,
            total_steps=steps,
            pct_start=pct_start,
            anneal_strategy=strategy,
        )
        ours = rates(OneCycle(0.7, steps, pct_start, shape=shape), steps)
        np.testing.assert_allclose(ours, expected, rtol=2e-5)
    for mode, decay in (("triangular", 1.0), ("triangular2", 0.5)):
        expected = of_torch(
            lr_scheduler.CyclicLR, 30, base_lr=0.01, max_lr=0.2, step_size_up=4, mode=mode
        )
        np.testing.assert_allclose(rates(Cycle(0.01, 0.2, 8, decay=decay), 30), expected, rtol=2e-5)


# ------------------------------------------------------------------- in training


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_each_update_has_its_rate(kind, way):
    sums = [-np.cumsum(rates(schedule, 8)) for schedule in EVERY.values()]
    for schedule, expected in zip(EVERY.values(), sums, strict=True):
        if way == "compiled" and schedule is not EVERY["warmup-cosine"]:
            continue  # each compiles; the formulas are the same in the two others
        model = one_weight(kind, keras.optimizers.SGD(schedule), **WAYS[way])
        seen = weights_after_epochs(model)
        np.testing.assert_allclose(seen, expected[[3, 7]], rtol=1e-5)
        assert float(model.optimizer.learning_rate) == pytest.approx(rates(schedule, 9)[8])


@pytest.mark.parametrize("shape", RAMPS)
def test_linear_warm_up_by_batch_over_the_first_epochs(shape, tmp_path):
    """Five epochs of warm-up in the essay; three here. Interrupted in the second and resumed."""
    batches, epochs, warm_epochs, rate = 4, 5, 3, 0.1
    steps = warm_epochs * math.ceil(batches / 1)
    t = np.arange(batches * epochs)
    expected = -np.cumsum(rate * RAMPS[shape](np.minimum(t / steps, 1)))[batches - 1 :: batches]

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def model():
        return one_weight(optimizer=keras.optimizers.SGD(Warmup(rate, steps, shape=shape)))

    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        weights_after_epochs(model(), backup, Interrupt(), batches=batches, epochs=epochs)
    resumed = weights_after_epochs(model(), backup, batches=batches, epochs=epochs)
    np.testing.assert_allclose(resumed, expected[2:], rtol=1e-5)
    whole = weights_after_epochs(model(), batches=batches, epochs=epochs)
    np.testing.assert_allclose(whole, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda schedule: kc.optimizers.Accumulate(keras.optimizers.SGD(schedule), 2),
        lambda schedule: kc.optimizers.Accumulate(schedule, 2),
        kc.optimizers.Heun,
    ],
    ids=["accumulate", "accumulate-descent", "heun"],
)
def test_under_our_optimizers_it_counts_updates(optimizer):
    schedule = EVERY["warmup"]
    model = one_weight("mixin", optimizer(schedule))
    seen = weights_after_epochs(model)
    updates = int(model.optimizer.iterations)
    assert updates == (4 if hasattr(model.optimizer, "steps") else 8)
    np.testing.assert_allclose(seen[-1], -rates(schedule, updates).sum(), rtol=1e-5)


def test_warmup_over_a_cycle_over_a_warmup():
    schedule = Warmup(Cycle(0.1, 0.5, 4), 6)
    expected = np.minimum(np.arange(9) / 6, 1) * rates(Cycle(0.1, 0.5, 4), 9)
    np.testing.assert_allclose(rates(schedule, 9), expected, rtol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_saved_and_loaded_without_custom_objects(name, tmp_path):
    schedule = EVERY[name]
    copy = schedules.deserialize(schedules.serialize(schedule))
    assert type(copy) is type(schedule) and copy.get_config() == schedule.get_config()
    np.testing.assert_array_equal(rates(copy, 9), rates(schedule, 9))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule), loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate) == float(schedule(0))


def test_float64(float64):
    t = np.arange(9)
    p = np.minimum(t / 4, 1)
    for schedule, expected in (
        (Warmup(0.4, 4), 0.4 * p),  # a cosine of keras.ops has float32 in any case
        (Cycle(0.1, 0.5, 4), 0.1 + 0.4 * (1 - np.abs(2 * (t % 4) / 4 - 1))),
        (
            OneCycle(0.5, 10, 0.5, 2, 1, "linear"),
            np.where(t <= 4, 0.25 + 0.25 * p, 0.5 - (t - 4) / 20),
        ),
    ):
        np.testing.assert_allclose(rates(schedule, 9), expected, rtol=1e-13, atol=1e-16)


# ------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Warmup("0.1", 4), TypeError, "`learning_rate` of Warmup is a number.*'0.1'"),
        (lambda: Warmup(-0.1, 4), ValueError, "`learning_rate` of Warmup is at least 0.0.*-0.1"),
        (lambda: Warmup(0.1, 0), ValueError, "`steps` of Warmup.*positive integer.*given 0"),
        (lambda: Warmup(0.1, 2.5), ValueError, "`steps` of Warmup.*given 2.5"),
        (lambda: Warmup(0.1, 4, initial=2), ValueError, "`initial` of Warmup is from 0.0 to 1.0"),
        (lambda: Warmup(0.1, 4, shape="cos"), ValueError, "'linear' or 'cosine'.* given 'cos'"),
        (lambda: Cycle(0.5, 0.1, 4), ValueError, "`maximum` of Cycle is at least 0.5.*0.1"),
        (lambda: Cycle(0.1, 0.5, 4, "linear"), ValueError, "'triangular' or 'cosine'"),
        (lambda: Cycle(0.1, 0.5, 4, decay=2), ValueError, "`decay` of Cycle"),
        (lambda: OneCycle(None, 4), TypeError, "`maximum` of OneCycle is a number"),
        (lambda: OneCycle(0.1, 20, pct_start=30), ValueError, "`pct_start` of OneCycle"),
        (lambda: OneCycle(0.1, 20, div_factor=0), ValueError, "`div_factor` of OneCycle"),
        (lambda: OneCycle(0.1, 3), ValueError, "steps=3 and pct_start=0.3 .* over 0.9 updates"),
    ],
)
def test_arguments_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()
