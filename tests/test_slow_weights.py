"""`SlowWeights`: the slow weights of `Lookahead`, seen wherever the model is looked at."""

import keras
import numpy as np
import pytest

import keras_cool as kc
from keras_cool.callbacks import SlowWeights
from support.comparisons import assert_all_close, assert_all_equal
from support.replicas import two_devices
from support.training import fit
from support.ways_to_train import MODELS, WAYS

Lookahead = kc.optimizers.Lookahead
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype("float32")
Y = X[:, :1] - X[:, 1:2]
RATE, K, R = 0.1, 5, 0.5  # an epoch has 3 steps


def network(kind="plain", optimizer=None, **way):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(1, use_bias=False)
    model = MODELS[kind](inputs := keras.Input((3,)), dense(inputs))
    optimizer = optimizer or Lookahead(RATE, steps=K, rate=R)
    model.compile(optimizer, loss="mse", **(way or {"run_eagerly": True}))
    return model


def numpy_epochs(w, epochs):
    """The fast and the slow weights at the end of each epoch."""
    x, y, slow, step = X.astype("float64"), Y.astype("float64"), w, 0
    for _ in range(epochs):
        for i in range(0, 24, 8):
            a, b = x[i : i + 8], y[i : i + 8]
            w, step = w - RATE * 2 * a.T @ (a @ w - b) / 8, step + 1
            if step % K == 0:
                w = slow = slow + R * (w - slow)
        yield w, slow


class Seen(keras.callbacks.Callback):
    """The weights at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights()[0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_seen_is_slow_and_training_goes_on_fast(kind, way):
    model, seen = network(kind, **WAYS[way]), Seen()
    expected = list(numpy_epochs(model.get_weights()[0].astype("float64"), 4))
    logs = fit(model, X, Y, epochs=4, validation_data=(X, Y), callbacks=[seen, SlowWeights()])
    assert_all_close(seen.weights, [slow for _, slow in expected], rtol=1e-5)
    assert_all_close(model.get_weights(), [expected[-1][1]], rtol=1e-5)
    losses = [np.mean((X @ slow - Y) ** 2) for _, slow in expected]
    np.testing.assert_allclose(logs["val_loss"], losses, rtol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_training_is_as_without_it(kind):
    def losses(*callbacks):
        model = network(kind)
        return [fit(model, X, Y, epochs=2, callbacks=callbacks)["loss"] for _ in range(2)]

    assert losses(SlowWeights())[0] == losses()[0]
    slow = SlowWeights()
    assert losses(slow) == losses()  # the second `fit` too


@pytest.mark.parametrize("kind", MODELS)
def test_a_killed_training_resumes_bit_for_bit(kind, tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    whole = network(kind)
    fit(whole, X, Y, epochs=4, callbacks=[SlowWeights()])
    killed, backup = network(kind), keras.callbacks.BackupAndRestore(tmp_path / "backup")
    fast = [w for w, _ in numpy_epochs(killed.get_weights()[0].astype("float64"), 2)]
    with pytest.raises(KeyboardInterrupt):
        fit(killed, X, Y, epochs=4, callbacks=[backup, SlowWeights(), Kill()])
    assert_all_close(killed.get_weights(), fast[-1:], rtol=1e-5)
    resumed = network(kind)
    fit(resumed, X, Y, epochs=4, callbacks=[SlowWeights(), backup])
    assert_all_equal(resumed.get_weights(), whole.get_weights())
    assert_all_equal(*([np.array(v) for v in m.optimizer.variables] for m in (resumed, whole)))


@pytest.mark.parametrize("around", ["Heun", "Accumulate", "LossScaleOptimizer", "SAM"])
def test_a_lookahead_inside_another_optimizer(around):
    inner = Lookahead(RATE, steps=2)
    optimizer = {
        "Heun": lambda: kc.optimizers.Heun(inner),
        "SAM": lambda: kc.optimizers.SAM(inner),
        "Accumulate": lambda: kc.optimizers.Accumulate(inner, 1),
        "LossScaleOptimizer": lambda: keras.optimizers.LossScaleOptimizer(inner),
    }[around]()
    model = network("mixin", optimizer)
    fit(model, X, Y, callbacks=[SlowWeights()])
    assert int(inner.iterations) == 3
    assert_all_equal(model.get_weights(), [np.array(v) for v in inner.slow_weights])


@pytest.mark.backend("jax", "tensorflow")
def test_on_two_devices():
    expected = network()
    fit(expected, X, Y, epochs=2, callbacks=[SlowWeights()])
    with two_devices():
        model = network(jit_compile=False)
        fit(model, X, Y, epochs=2, callbacks=[SlowWeights()])
        weights = model.get_weights()
    assert_all_close(weights, expected.get_weights(), rtol=1e-5)


def test_a_checkpoint_holds_the_slow_weights(tmp_path):
    model = network("mixin")
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    expected = list(numpy_epochs(model.get_weights()[0].astype("float64"), 2))
    fit(model, X, Y, epochs=2, callbacks=[checkpoint, SlowWeights()])
    for epoch, (_, slow) in enumerate(expected, start=1):
        loaded = keras.saving.load_model(tmp_path / f"{epoch}.keras")
        assert_all_close(loaded.get_weights(), [slow], rtol=1e-5)


def test_what_it_is_not_for_is_refused():
    with pytest.raises(ValueError, match="compiled with `keras_cool.optimizers.Lookahead`.*Adam"):
        fit(network(optimizer=keras.optimizers.Adam()), X, Y, callbacks=[SlowWeights()])
    with_ema = Lookahead(keras.optimizers.Adam(use_ema=True))
    with pytest.raises(ValueError, match=r"Adam\(use_ema=True\) a moving average"):
        fit(network(optimizer=with_ema), X, Y, callbacks=[SlowWeights()])
    both = [SlowWeights(), kc.callbacks.WeightAveraging(0)]
    with pytest.raises(ValueError, match="Give `fit` one of them"):
        fit(network(), X, Y, callbacks=both)


@pytest.mark.parametrize("kind", MODELS)
def test_weights_that_were_set_between_two_fits_are_trained(kind):
    model, slow = network(kind), SlowWeights()
    fit(model, X, Y, epochs=5, callbacks=[slow])  # 15 steps: the slow weights have just followed
    start = np.full((3, 1), 0.5)
    model.set_weights([start])
    fit(model, X, Y, epochs=5, callbacks=[slow])
    assert_all_close(model.get_weights(), [list(numpy_epochs(start, 5))[-1][1]], rtol=1e-5)
