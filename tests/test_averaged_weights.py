"""`use_ema`: the weights and their moving average share no buffer when a step donates it (JAX)."""

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
Y = X[:, :1] ** 2


def averaged(cls, wrapped=False, **arguments):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    model = cls(inputs, keras.layers.Dense(1)(keras.layers.Dense(4, "tanh")(inputs)))
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)
    optimizer = kc.optimizers.Accumulate(optimizer, 2) if wrapped else optimizer
    model.compile(optimizer, loss="mse", **arguments)
    return model


def weights_after_three_epochs(model, callbacks=()):
    model.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model.get_weights()


def separated(model):
    """What Keras leaves to the user on JAX, by hand: copies of all values."""
    for variable in model.optimizer.variables:
        variable.assign(np.array(keras.ops.convert_to_numpy(variable)))


def error(model):
    return float(np.mean((model.predict(X, verbose=0) - Y) ** 2))


FUNCTIONS = {
    "predict": error,
    "evaluate": lambda model: model.evaluate(X, Y, verbose=0),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("cls", [keras.Model, kc.Model])
def test_evaluate_and_save_the_averaged_weights(cls, function, tmp_path):
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    alone = weights_after_three_epochs(averaged(cls), [swap])
    path = tmp_path / "best.weights.h5"
    evaluate = kc.callbacks.PythonMetric(FUNCTIONS[function], "error", mode="min", save_best=path)
    model = averaged(cls)
    weights = weights_after_three_epochs(
        model, [keras.callbacks.SwapEMAWeights(swap_on_epoch=True), evaluate]
    )
    assert_all_equal(weights, alone)
    model.load_weights(path)
    assert error(model) == pytest.approx(evaluate.best, rel=1e-5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_training_goes_on_after_a_training_with_averages(wrapped):
    model, expected = averaged(kc.Model, wrapped), averaged(keras.Model)
    if wrapped:  # the same in plain Keras: batches of twice the size
        weights_after_three_epochs(model)
        expected.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    else:
        weights_after_three_epochs(model)
        weights_after_three_epochs(expected)
    separated(expected)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    model.train_on_batch(X, Y)
    if wrapped:
        model.train_on_batch(X, Y)
    expected.train_on_batch(X, Y)
    actual = weights_after_three_epochs(model)
    separated(expected)
    expected.fit(X, Y, batch_size=16 if wrapped else 8, epochs=3, shuffle=False, verbose=0)
    assert_all_close(actual, expected.get_weights(), rtol=1e-4, atol=1e-6)


def test_a_loss_surface_leaves_the_average_whole():
    model, trajectory = averaged(keras.Model), kc.callbacks.Trajectory()
    weights_after_three_epochs(model, [trajectory])
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
    trajectory.surface(X, Y, resolution=2, batch_size=32)
    for variable, value in zip(model.optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)


def test_a_function_that_fails_leaves_the_metrics_as_they_were():
    seen = []

    class Sees(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append([np.array(v.numpy()) for v in self.model.metrics_variables])
            with pytest.raises(RuntimeError, match="its own"):
                evaluate.on_epoch_end(epoch, {})
            seen.append([np.array(v.numpy()) for v in self.model.metrics_variables])

    def function(model):
        model.evaluate(X[:5], Y[:5], verbose=0)
        raise RuntimeError("its own")

    evaluate, model = kc.callbacks.PythonMetric(function, "error"), averaged(keras.Model)
    evaluate.set_model(model)
    evaluate.on_epoch_begin(0)
    model.fit(X, Y, verbose=0, callbacks=[Sees()])
    for before, after in zip(*seen, strict=True):
        np.testing.assert_array_equal(before, after)
