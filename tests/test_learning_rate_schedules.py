"""What all schedules share: a rate for each update, under every optimizer, saved and in float64.

The formula of each is in a file called after it.
"""

import keras
import numpy as np
import pytest

import keras_cool as kc
from keras_cool.optimizers.schedules import Cycle, OneCycle, Warmup
from support.learning_rates import one_weight, rates, weights_after_epochs
from support.ways_to_train import MODELS, WAYS

schedules = keras.optimizers.schedules
EVERY = {
    "warmup": Warmup(0.4, 4, initial=0.1),
    "warmup-cosine": Warmup(schedules.ExponentialDecay(0.4, 3, 0.5), 4, shape="cosine"),
    "cycle": Cycle(0.1, 0.5, 4, decay=0.5),
    "one-cycle": OneCycle(0.5, 8),
}


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
