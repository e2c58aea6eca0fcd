"""`Warmup`: its formula in NumPy, Keras' own warm-up, and what training does under it."""

import math

import keras
import numpy as np
import pytest

from keras_cool.optimizers.schedules import Cycle, Warmup
from support.learning_rates import RAMPS, one_weight, rates, weights_after_epochs

schedules = keras.optimizers.schedules


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


def test_warmup_over_a_cycle_over_a_warmup():
    schedule = Warmup(Cycle(0.1, 0.5, 4), 6)
    expected = np.minimum(np.arange(9) / 6, 1) * rates(Cycle(0.1, 0.5, 4), 9)
    np.testing.assert_allclose(rates(schedule, 9), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Warmup("0.1", 4), TypeError, "`learning_rate` of Warmup is a number.*'0.1'"),
        (lambda: Warmup(-0.1, 4), ValueError, "`learning_rate` of Warmup is at least 0.0.*-0.1"),
        (lambda: Warmup(0.1, 0), ValueError, "`steps` of Warmup.*positive integer.*given 0"),
        (lambda: Warmup(0.1, 2.5), ValueError, "`steps` of Warmup.*given 2.5"),
        (lambda: Warmup(0.1, 4, initial=2), ValueError, "`initial` of Warmup is from 0.0 to 1.0"),
        (lambda: Warmup(0.1, 4, shape="cos"), ValueError, "'linear' or 'cosine'.* given 'cos'"),
    ],
)
def test_arguments_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()
