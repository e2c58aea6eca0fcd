"""`GradientNoiseScale`: against the closed form of linear regression, and NumPy batch by batch."""

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.ways_to_train import BACKEND, WAYS

NoiseScale = kc.callbacks.GradientNoiseScale
DIMENSION, DISTANCE, NOISE = 3, 0.5, 1.0
RNG = np.random.default_rng(0)


def data(samples):
    """Standard normal inputs, targets of the weights 1 and noise."""
    x = RNG.normal(size=(samples, DIMENSION)).astype("float32")
    y = x.sum(axis=1, keepdims=True) + NOISE * RNG.normal(size=(samples, 1))
    return x, y.astype("float32")


def regression(optimizer=None, cls=kc.Model, **arguments):
    """A model that stays where it is, `DISTANCE` away from the weights 1 in each direction."""
    inputs = keras.Input((DIMENSION,))
    weights = keras.initializers.Constant(1 + DISTANCE)
    outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer=weights)(inputs)
    model = cls(inputs, outputs)
    model.compile(optimizer or keras.optimizers.SGD(0.0), loss="mse", **arguments)
    return model


def from_parts(x, y, parts):
    """The noise scale by the per-part gradients in NumPy, of one batch."""
    w = np.full((DIMENSION, 1), 1 + DISTANCE)
    pieces = zip(np.split(x.astype("float64"), parts), np.split(y.astype("float64"), parts))
    gradients = [2 * a.T @ (a @ w - b) / len(a) for a, b in pieces]
    mean = sum(gradients) / len(gradients)
    inside = np.mean([np.sum(g**2) for g in gradients]) - np.sum(mean**2)
    trace = inside * len(x) / (parts - 1)
    return trace, np.sum(mean**2) - trace / len(x)


SOFT = {
    "microbatches": lambda: (32, {"microbatch_size": 8}),
    "accumulate": lambda: (
        8,
        {"optimizer": kc.optimizers.Accumulate(keras.optimizers.SGD(0.0), 4)},
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("soft", SOFT)
def test_the_mean_over_an_epoch_as_in_numpy(soft, way):
    x, y = data(4 * 32)
    batch_size, arguments = SOFT[soft]()
    model = regression(**arguments, **WAYS[way])
    noise = NoiseScale(frequency=2)
    logs = model.fit(
        x, y, batch_size=batch_size, epochs=2, shuffle=False, verbose=0, callbacks=[noise]
    ).history
    batches = zip(np.split(x, 4)[::2], np.split(y, 4)[::2])
    traces, squares = np.array([from_parts(a, b, 4) for a, b in batches]).T
    ratio = traces.mean() / squares.mean()
    deviation = np.std(traces - ratio * squares, ddof=1) / np.sqrt(2) / squares.mean()
    np.testing.assert_allclose(logs["gradient_noise_scale"], [ratio] * 2, rtol=1e-3)
    np.testing.assert_allclose(logs["gradient_noise_scale_error"], [deviation] * 2, rtol=1e-3)
    np.testing.assert_allclose(noise.data()["noise_scale"], [ratio] * 2, rtol=1e-3)
    assert noise.noise_scale == logs["gradient_noise_scale"][-1]


@pytest.mark.parametrize("soft", SOFT)
def test_in_float64_as_in_numpy(soft, float64):
    x, y = data(2 * 32)
    batch_size, arguments = SOFT[soft]()
    noise = NoiseScale(frequency=1)
    regression(**arguments).fit(
        x.astype("float64"),
        y.astype("float64"),
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=[noise],
    )
    batches = zip(np.split(x, 2), np.split(y, 2))
    traces, squares = np.array([from_parts(a, b, 4) for a, b in batches]).T
    np.testing.assert_allclose(noise.noise_scale, traces.mean() / squares.mean(), rtol=1e-5)


def test_the_closed_form_of_linear_regression():
    """The noise scale of a normal design: n (1 + noise^2 / distance^2) + 1, in 5,000 steps."""
    x, y = data(5000 * 8)
    steps = {} if BACKEND == "torch" else {"steps_per_execution": 100}
    model = regression(microbatch_size=4, **steps)
    noise = NoiseScale(frequency=1)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[noise])
    exact = DIMENSION * (1 + NOISE**2 / (DIMENSION * DISTANCE**2)) + 1
    assert abs(noise.noise_scale / exact - 1) < 0.1
    assert abs(noise.noise_scale - exact) < 4 * noise.data()["error"][0] < 0.2 * exact


def test_the_parts_of_an_unequal_last_micro_batch():
    """It has the closed form's mean too: shares, not sizes, weigh the parts."""
    x, y = data(400 * 10)
    model = regression(microbatch_size=4)
    noise = NoiseScale(frequency=1)
    model.fit(x, y, batch_size=10, verbose=0, callbacks=[noise])
    exact = DIMENSION * (1 + NOISE**2 / (DIMENSION * DISTANCE**2)) + 1
    assert abs(noise.noise_scale - exact) < 4 * noise.data()["error"][0] < 0.5 * exact


@pytest.mark.parametrize("method", [kc.optimizers.Heun, kc.optimizers.RK23])
def test_the_first_gradient_of_a_step_with_several(method):
    x, y = data(64)
    expected = regression(microbatch_size=8)
    model = regression(method(1e-6), microbatch_size=8)
    scales = []
    for m in (expected, model):
        noise = NoiseScale(frequency=1)
        m.fit(x, y, batch_size=32, shuffle=False, verbose=0, callbacks=[noise])
        scales.append(noise.noise_scale)
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)


class OwnStep(kc.Model):
    def multi_gradient_step(self, x, y, sample_weight):
        def loss_function(x, y):
            return self.compute_loss(x, y, self(x, training=True))

        variables = self.trainable_variables
        loss, gradients = self.value_and_grad(loss_function, variables, batch=(x, y))
        self.value_and_grad(loss_function, variables, batch=(x, y))  # not measured: not the first
        self.apply_gradients(gradients, variables)
        return {"loss": loss}


@pytest.mark.parametrize("soft", SOFT)
def test_a_step_of_ones_own(soft):
    x, y = data(64)
    batch_size, arguments = SOFT[soft]()
    scales = []
    for cls in (kc.Model, OwnStep):
        noise = NoiseScale(frequency=1)
        regression(cls=cls, **arguments).fit(
            x, y, batch_size=batch_size, shuffle=False, verbose=0, callbacks=[noise]
        )
        scales.append(noise.noise_scale)
        arguments = SOFT[soft]()[1]
    assert scales[0] == pytest.approx(scales[1], rel=1e-5)


def test_mixed_precision_is_unscaled():
    keras.config.set_dtype_policy("mixed_float16")
    x, y = data(64)
    noise = NoiseScale(frequency=1)
    regression(microbatch_size=8).fit(
        x, y, batch_size=32, shuffle=False, verbose=0, callbacks=[noise]
    )
    batches = zip(np.split(x, 2), np.split(y, 2))
    traces, squares = np.array([from_parts(a, b, 4) for a, b in batches]).T
    assert noise.noise_scale == pytest.approx(traces.mean() / squares.mean(), rel=0.02)


def test_training_is_the_same_with_it():
    x, y = data(96)
    ends = []
    for callbacks in ([], [NoiseScale(frequency=1)]):
        model = regression(keras.optimizers.Adam(0.01), microbatch_size=8)
        model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        ends.append(model.get_weights()[0])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)


def test_batches_without_parts_are_refused():
    x, y = data(16)
    with pytest.raises(ValueError, match=r"computes its batches at once.*microbatch_size=16"):
        regression().fit(x, y, verbose=0, callbacks=[NoiseScale()])
    model = regression(microbatch_size=16)
    with pytest.raises(ValueError, match="no batch of the epoch had two parts"):
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[NoiseScale()])
    with pytest.raises(
        ValueError, match=r"`frequency` of GradientNoiseScale is a positive integer"
    ):
        NoiseScale(frequency="epoch")
