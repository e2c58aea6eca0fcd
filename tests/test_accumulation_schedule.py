"""`AccumulationSchedule`: the soft batch of each epoch, without compiling again.

The model has one weight, and its loss is its output: each update takes 0.1 from the weight.
"""

import keras
import numpy as np
import pytest

from keras_cool.callbacks import AccumulationSchedule, FinishWindow
from keras_cool.optimizers import Accumulate
from support.ways_to_train import MODELS, WAYS

BATCHES = 8  # an epoch, of one sample each
X = np.ones((BATCHES, 1), "float32")


class OneWeight(keras.layers.Layer):
    """Multiplies by a weight, and counts how often Python runs through it."""

    calls = 0

    def build(self, shape):
        self.w = self.add_weight(shape=(1,), initializer="zeros")

    def call(self, x):
        self.calls += 1
        return x * self.w


def one_weight(kind="plain", steps=1, optimizer="sgd", **way):
    inputs = keras.Input((1,))
    layer = OneWeight()
    model = MODELS[kind](inputs, layer(inputs))
    inner = keras.optimizers.SGD(0.1)
    optimizer = optimizer if optimizer != "sgd" else Accumulate(inner, steps)
    model.compile(optimizer, loss=lambda y, p: p, **(way or {"run_eagerly": True}))
    return model, layer


def updates_by_epoch(model, *callbacks, epochs=3, **arguments):
    updates = [0]
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: updates.append(int(model.optimizer.iterations))
    )
    model.fit(
        X, X, batch_size=1, epochs=epochs, verbose=0, callbacks=[*callbacks, count], **arguments
    )
    return np.diff(updates).tolist()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_each_epoch_has_its_number_of_updates(kind, way):
    model, _ = one_weight(kind, **WAYS[way])
    schedule = AccumulationSchedule({2: 8, 1: 4})  # in any order
    assert updates_by_epoch(model, schedule, epochs=4) == [8, 2, 1, 1]
    np.testing.assert_allclose(model.get_weights()[0], -1.2, rtol=1e-5)


@pytest.mark.parametrize("way", sorted(WAYS.keys() & {"compiled", "two-steps"}))
def test_nothing_is_traced_again(way):
    way = WAYS[way] if keras.backend.backend() != "torch" else {}  # as Keras trains by default
    model, layer = one_weight(**way)
    updates_by_epoch(model, AccumulationSchedule({0: 2}), epochs=1)
    before, optimizer = layer.calls, model.optimizer
    function = model.train_function
    assert updates_by_epoch(model, AccumulationSchedule({0: 1, 1: 4, 2: 8}))[1:] == [2, 1]
    assert model.train_function is function and model.optimizer is optimizer
    if keras.backend.backend() != "torch":  # there Python runs at each step
        assert layer.calls == before


def test_before_the_first_epoch_named_the_optimizer_keeps_its_own():
    model, _ = one_weight(steps=4)
    assert updates_by_epoch(model, AccumulationSchedule({1: 8})) == [2, 1, 1]


def test_training_that_begins_later_has_the_number_of_its_epoch():
    model, _ = one_weight()
    schedule = AccumulationSchedule({0: 1, 5: 4})
    assert updates_by_epoch(model, schedule, initial_epoch=7, epochs=8) == [2]
    assert model.optimizer.steps == 4
    assert updates_by_epoch(model, schedule, epochs=1) == [10]  # the two from before, and eight


@pytest.mark.parametrize("kind", MODELS)
def test_windows_that_are_not_full_end_with_the_epoch(kind):
    model, _ = one_weight(kind)
    callbacks = [AccumulationSchedule({0: 3, 1: 5, 2: 8}), FinishWindow()]
    assert updates_by_epoch(model, *callbacks) == [3, 2, 1]
    assert updates_by_epoch(one_weight(kind)[0], *reversed(callbacks)) == [3, 2, 1]


def test_a_window_that_is_carried_on_ends_by_the_new_number():
    optimizer = Accumulate(keras.optimizers.SGD(0.1), 1, last_window="carry")
    model, _ = one_weight("mixin", optimizer=optimizer)
    # 6 + 2 | 1 (3 are there, and 2 are enough), 3 times 2, 1 | 1, 3 times 2, 1
    assert updates_by_epoch(model, AccumulationSchedule({0: 6, 1: 2})) == [1, 4, 4]


def test_interrupted_and_resumed(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    schedule, backup = AccumulationSchedule({0: 1, 1: 4, 3: 8}), tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        updates_by_epoch(
            one_weight()[0], schedule, keras.callbacks.BackupAndRestore(backup), Interrupt()
        )
    model, _ = one_weight()
    resumed = updates_by_epoch(model, keras.callbacks.BackupAndRestore(backup), schedule, epochs=4)
    assert resumed == [10 + 2, 1]  # ten from before the interruption


def test_inside_a_loss_scale_optimizer():
    optimizer = keras.optimizers.LossScaleOptimizer(Accumulate(keras.optimizers.SGD(0.1), 1))
    model, _ = one_weight(optimizer=optimizer, run_eagerly=False)
    updates_by_epoch(model, AccumulationSchedule({0: 1, 1: 4}), epochs=2)
    assert optimizer.inner_optimizer.steps == 4
    assert int(optimizer.inner_optimizer.iterations) == 10


# ------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        ({}, ValueError, "empty dictionary"),
        (4, TypeError, "dictionary of epochs.* given 4 of type int"),
        ({0: 1.5}, TypeError, r"dictionary of integers.*\{0: 1.5\}"),
        ({"5": 4}, TypeError, r"\{'5': 4\}"),
        ({0: True}, TypeError, r"\{0: True\}"),
        ({-1: 4}, ValueError, r"count from 0.*\{-1: 4\}"),
        ({5: 0}, ValueError, r"at least 1 batch.*\{5: 0\}"),
    ],
)
def test_bad_dictionaries(schedule, error, message):
    with pytest.raises(error, match=message) as raised:
        AccumulationSchedule(schedule)
    assert "AccumulationSchedule({0: 1, 5: 4})" in str(raised.value)


def test_an_optimizer_that_does_not_accumulate():
    model, _ = one_weight(optimizer=keras.optimizers.SGD())
    with pytest.raises(ValueError, match=r"keras_cool.optimizers.Accumulate\('adam'.* is SGD"):
        updates_by_epoch(model, AccumulationSchedule({0: 1}))


def test_steps_that_are_a_function():
    optimizer = Accumulate("sgd", steps=lambda updates: updates + 1)
    model, _ = one_weight(optimizer=optimizer)
    with pytest.raises(TypeError, match=r"has a function.*Accumulate\(..., steps=2\)"):
        updates_by_epoch(model, AccumulationSchedule({0: 2}))
