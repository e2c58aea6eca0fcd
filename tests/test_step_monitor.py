"""`StepMonitor`: its numbers against NumPy, its picture, and that nothing else changes."""

import sys

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.training import fit
from support.ways_to_train import BACKEND, MODELS, WAYS

StepMonitor = kc.callbacks.StepMonitor
X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def linear(cls=kc.Model, optimizer=None, **arguments):
    """One layer without a bias, from weights of ones and halves; five steps an epoch."""
    inputs = keras.Input((3,))
    weights = keras.initializers.Constant(0.5)
    model = cls(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer=weights)(inputs))
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss="mse", **arguments)
    return model


def train_with(model, callbacks, epochs=2, batch_size=4):
    return fit(model, X, Y, batch_size=batch_size, epochs=epochs, callbacks=callbacks)


def descent(steps, batch_size=4, rate=0.1):
    """The norms of gradient, update and weights in NumPy, a row a step."""
    w, rows = np.full((3, 1), 0.5), []
    for i in range(steps):
        start = batch_size * i % len(X)
        x, y = X[start:][:batch_size].astype("float64"), Y[start:][:batch_size]
        gradient = 2 * x.T @ (x @ w - y) / batch_size
        norms = (gradient, rate * gradient, w)
        rows.append([np.linalg.norm(a) for a in norms])
        w = w - rate * gradient
    return np.array(rows)


NORMS = ("gradient_norm", "update_norm", "weight_norm")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "two-steps"])
@pytest.mark.parametrize("cls", MODELS)
def test_norms_as_in_numpy(cls, way):
    model = linear(MODELS[cls], **WAYS[way])
    report = StepMonitor(frequency=3)
    logs = train_with(model, [report])
    data = report.data()
    assert data["step"].tolist() == [0, 3, 6, 9]
    expected = descent(10)[::3]
    for name, column in zip(NORMS, expected.T):
        np.testing.assert_allclose(data[name], column, rtol=1e-4)
        np.testing.assert_allclose(logs[name], column[[1, 3]], rtol=1e-4)
    np.testing.assert_allclose(data["update_ratio"], expected[:, 1] / expected[:, 2], rtol=1e-4)
    np.testing.assert_allclose(data["learning_rate"], 0.1)

    assert "step" not in logs


@pytest.mark.parametrize("accumulates", [False, True])
def test_norms_in_float64(accumulates, float64):
    optimizer = keras.optimizers.SGD(0.1)
    optimizer = kc.optimizers.Accumulate(optimizer, 2) if accumulates else optimizer
    report = StepMonitor(frequency=1)
    train_with(linear(optimizer=optimizer), [report], epochs=1, batch_size=2 if accumulates else 4)
    for name, column in zip(NORMS, descent(5).T):
        np.testing.assert_allclose(report.data()[name], column, rtol=1e-5)


@pytest.mark.parametrize("cls", MODELS)
def test_training_is_the_same_with_it(cls):
    ends = []
    for callbacks in ([], [StepMonitor(frequency=2)]):
        model = linear(MODELS[cls], keras.optimizers.Adam(0.1))
        train_with(model, callbacks)
        ends.append(model.get_weights()[0])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)


def test_windows_are_reported_as_the_large_batch():
    """Of a window that is not full at the end of an epoch there is no report."""
    report = StepMonitor(frequency=1)
    train_with(
        linear(optimizer=kc.optimizers.Accumulate(keras.optimizers.SGD(0.1), 2)), [report], 1
    )
    data = report.data()
    assert data["step"].tolist() == [0, 1]
    for name, column in zip(NORMS, descent(2, batch_size=8).T):
        np.testing.assert_allclose(data[name], column, rtol=1e-4)


def test_windows_are_counted_by_updates():
    report = StepMonitor(frequency=2)
    optimizer = kc.optimizers.Accumulate(keras.optimizers.SGD(0.1), 5)
    train_with(linear(optimizer=optimizer), [report], epochs=5)
    assert report.data()["step"].tolist() == [0, 2, 4]


def test_a_controlled_step_and_its_tries():
    """The error of each step by its own log, and counts that are the step's and not the sum."""
    every, some = StepMonitor(frequency=1), StepMonitor(frequency=2)
    optimizer = kc.optimizers.RK23(5.0, rtol=1e-2)
    logs = train_with(linear(optimizer=optimizer), [every, some])
    data = every.data()
    assert data["rejected_tries"][0] > 0
    assert (data["gradient_evaluations"] == 4 + 3 * data["rejected_tries"]).all()
    assert data["gradient_evaluations"].sum() == float(
        optimizer.step_logs()["gradient_evaluations"]
    )
    assert ((data["embedded_error"] > 0) & (data["embedded_error"] < 1)).all()
    np.testing.assert_allclose(data["flow_time"], np.cumsum(data["step_size"]), rtol=1e-5)
    for name, values in some.data().items():
        np.testing.assert_array_equal(values, data[name][::2])
    assert logs["rejected_tries"][-1] == data["rejected_tries"].sum()  # Keras' own logs: the sum


@pytest.mark.parametrize("optimizer", ["sgd", "rk23"])
def test_a_picture(optimizer, tmp_path):
    optimizer = kc.optimizers.RK23(0.1) if optimizer == "rk23" else optimizer
    report = StepMonitor(frequency=1)
    with pytest.raises(ValueError, match="nothing to plot"):
        report.plot(tmp_path / "report.png")
    train_with(linear(optimizer=optimizer), [report])
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_an_error_and_the_data(monkeypatch, tmp_path):
    report = StepMonitor(frequency=1)
    train_with(linear(), [report], epochs=1)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install matplotlib`"):
        report.plot(tmp_path / "report.png")
    assert len(report.data()["step"]) == 5


def test_embeddings():
    """Their gradients are sparse on TensorFlow, with an entry for each use of a row."""
    inputs = keras.Input((4,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Embedding(5, 2)(inputs))
    model.compile(keras.optimizers.SGD(0.5), loss="mse")
    report = StepMonitor(frequency=1)
    rows, targets = np.array([[0, 1, 1, 1], [1, 0, 2, 2]]), np.ones((2, 4, 2), "float32")
    model.fit(rows, targets, epochs=2, verbose=0, callbacks=[report])
    data = report.data()
    np.testing.assert_allclose(data["update_norm"], 0.5 * data["gradient_norm"], rtol=1e-5)


def test_mixed_precision_is_unscaled():
    keras.config.set_dtype_policy("mixed_float16")
    report = StepMonitor(frequency=1)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0)
    train_with(linear(optimizer=optimizer), [report], epochs=1)
    np.testing.assert_allclose(report.data()["gradient_norm"], descent(5)[:, 0], rtol=0.02)


class OwnStep(kc.Model):
    applies = True

    def multi_gradient_step(self, x, y, sample_weight):
        def loss_function():
            return self.compute_loss(x, y, self(x, training=True))

        loss, gradients = self.value_and_grad(loss_function, self.trainable_variables)
        if self.applies:
            self.apply_gradients(gradients, self.trainable_variables)
        return {"loss": loss}


def test_a_step_of_ones_own():
    report = StepMonitor(frequency=1)
    model = linear(OwnStep)
    train_with(model, [report])
    np.testing.assert_allclose(report.data()["gradient_norm"], descent(10)[:, 0], rtol=1e-4)
    model.applies = False
    with pytest.raises(ValueError, match=r"saw no gradients.*self.apply_gradients\(gradients"):
        train_with(model, [StepMonitor(frequency=1), StepMonitor()])  # two of them: compiled anew


def test_a_model_that_is_not_built_yet():
    """TensorFlow builds it within its first step, of which there is no report then."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    report = StepMonitor(frequency=2)
    train_with(model, [report])
    first = 1 if BACKEND == "tensorflow" else 0
    assert report.data()["step"].tolist() == list(range(first, 10, 2))


@pytest.mark.parametrize("frequency", [0, 2.5, True, "epoch"])
def test_a_bad_frequency(frequency):
    with pytest.raises(ValueError, match="`frequency` of StepMonitor is a positive integer"):
        StepMonitor(frequency)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no steps_per_execution there")
def test_several_steps_an_execution_are_refused():
    with pytest.raises(ValueError, match="Compile the model with steps_per_execution=1"):
        train_with(linear(steps_per_execution=2), [StepMonitor()])


@pytest.mark.multi_optimizer
def test_the_rates_of_several_optimizers(tmp_path):
    first, second = keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.2)
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(2, name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    several = keras.optimizers.MultiOptimizer(lambda v: first if "hidden" in v.path else second)
    model.compile(several, loss="mse")
    report = StepMonitor(frequency=1)
    logs = train_with(model, [report])
    np.testing.assert_allclose(
        [logs["learning_rate_1"][-1], logs["learning_rate_2"][-1]], [0.1, 0.2]
    )
    report.plot(tmp_path / "report.png")

    accumulate = kc.optimizers.Accumulate(keras.optimizers.SGD(0.1), 2)
    model.compile(keras.optimizers.MultiOptimizer(lambda v: accumulate), loss="mse")
    with pytest.raises(ValueError, match="one window at a time"):
        train_with(model, [report])
