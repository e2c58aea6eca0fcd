"""`Accumulate`: windows, their ends, what does not count, and what it leaves to be seen."""

import copy
import json
import pathlib
import pickle
import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import (
    assert_all_close,
    assert_all_equal,
    assert_same_state,
    assert_same_weights,
)
from support.killed import train_until_killed
from support.small_net import X, Y, compiled_net, net, updates
from support.training import fit

MODELS = {"mixin": kc.Model, "keras": keras.Model}


@pytest.fixture(params=MODELS)
def model_class(request):
    return MODELS[request.param]


def accumulate(steps=3, optimizer="adam", **options):
    return kc.optimizers.Accumulate(optimizer, steps, **options)


def test_steps_changed_between_epochs(model_class):
    """15 batches of 8 an epoch: windows of 3, then of 5."""
    model = compiled_net(model_class, accumulate(3))

    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.steps = (3, 5)[epoch]

    fit(model, X, Y, epochs=2, callbacks=[Change()])
    expected = compiled_net(keras.Model, "adam")
    fit(expected, X, Y, batch_size=24)
    fit(expected, X, Y, batch_size=40)
    assert model.optimizer.steps == 5
    assert updates(model) == updates(expected) == 8
    assert_same_weights(model, expected)


@keras.saving.register_keras_serializable(package="tests")
def growing(updates):
    """Windows of 1, 2, 3, ... batches: the 15 of an epoch make up 5 updates."""
    return 1.0 + ops.cast(updates, "float32")


@pytest.mark.parametrize("as_schedule", [False, True])
def test_steps_on_a_schedule_of_the_updates(model_class, as_schedule):
    schedule = growing
    if as_schedule:
        schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 4, end_learning_rate=5.0)
    model = compiled_net(model_class, accumulate(schedule))
    fit(model, X, Y)
    expected = compiled_net(keras.Model, "adam")
    for i in range(5):
        batch = slice(4 * i * (i + 1), 4 * (i + 1) * (i + 2))
        expected.train_on_batch(X[batch], Y[batch])
    assert updates(model) == 5
    assert_same_weights(model, expected)


def test_a_window_that_is_not_full_updates_before_validation():
    """10 batches in windows of 4; the third update is of two batches."""
    model = compiled_net(kc.Model, accumulate(4))
    history = fit(model, X[:80], Y[:80], validation_data=(X[80:], Y[80:]))
    expected = compiled_net(keras.Model, "adam")
    expected_history = fit(
        expected, X[:80], Y[:80], batch_size=32, validation_data=(X[80:], Y[80:])
    )
    assert_same_weights(model, expected)
    assert history["val_loss"] == pytest.approx(expected_history["val_loss"], rel=1e-5)
    assert history["loss"] == pytest.approx(expected_history["loss"], rel=1e-5)


def test_a_window_carried_on(model_class):
    """2 epochs of 10 batches in windows of 4 are 5 updates."""
    model = compiled_net(model_class, accumulate(4, last_window="carry"))
    callbacks = [] if model_class is kc.Model else [kc.callbacks.FinishWindow()]
    fit(model, X[:80], Y[:80], epochs=2, callbacks=callbacks)
    expected = compiled_net(keras.Model, "adam")
    stream = np.r_[0:80, 0:80]
    fit(expected, X[stream], Y[stream], batch_size=32)
    assert updates(model) == 5
    assert_same_weights(model, expected)


def test_a_window_dropped(model_class):
    model = compiled_net(model_class, accumulate(4, last_window="drop"))
    callbacks = [] if model_class is kc.Model else [kc.callbacks.FinishWindow()]
    fit(model, X[:80], Y[:80], epochs=2, callbacks=callbacks)
    expected = compiled_net(keras.Model, "adam")
    stream = np.r_[0:64, 0:64]
    fit(expected, X[stream], Y[stream], batch_size=32)
    assert_same_weights(model, expected)


def test_batches_of_unequal_size_are_weighted_by_it_with_the_mixin():
    sizes = [8, 3, 13, 8, 1, 15]
    model, expected = compiled_net(kc.Model, accumulate(3)), compiled_net(keras.Model, "adam")
    start = 0
    for i, size in enumerate(sizes):
        model.train_on_batch(X[start : start + size], Y[start : start + size])
        start += size
        if i % 3 == 2:
            expected.train_on_batch(X[start - 24 : start], Y[start - 24 : start])
    assert_same_weights(model, expected)


def not_finite(batch):
    x = X.copy()
    x[8 * batch] = np.inf
    return x


def test_a_batch_that_is_not_finite_skips_the_update_of_its_window(model_class):
    model = compiled_net(model_class, accumulate(3))
    logs = fit(model, not_finite(4), Y)
    expected = compiled_net(keras.Model, "adam")
    rest = np.r_[0:24, 48:120]
    fit(expected, X[rest], Y[rest], batch_size=24)
    assert updates(model) == 4
    assert int(model.optimizer.skipped_steps.numpy()) == 1
    if model_class is kc.Model:
        assert logs["skipped_steps"] == [1]
    assert_same_weights(model, expected)


def test_a_batch_that_is_not_finite_is_left_out(model_class):
    model = compiled_net(model_class, accumulate(3, non_finite="skip_batch"))
    logs = fit(model, not_finite(4), Y)
    expected = compiled_net(keras.Model, "adam")
    for batch in (np.r_[0:24], np.r_[24:32, 40:48], np.r_[48:72], np.r_[72:96], np.r_[96:120]):
        expected.train_on_batch(X[batch], Y[batch])
    assert int(model.optimizer.skipped_batches.numpy()) == 1
    if model_class is kc.Model:
        assert logs["skipped_batches"] == [1]
        assert logs["skipped_steps"] == [0]
    assert_same_weights(model, expected)


def test_a_window_without_a_finite_batch_is_skipped(model_class):
    x = np.full_like(X, np.nan)
    model = compiled_net(model_class, accumulate(3, non_finite="skip_batch"))
    before = model.get_weights()
    fit(model, x, Y)
    assert updates(model) == 0
    assert int(model.optimizer.skipped_steps.numpy()) == 5
    assert_all_equal(model.get_weights(), before)


def test_a_variable_without_gradient_keeps_its_value_and_warns(model_class):
    class WithUnused(keras.layers.Layer):
        def build(self, shape):
            self.unused = self.add_weight(shape=(2,), initializer="ones", name="unused")

        def call(self, x):
            return x

    keras.utils.set_random_seed(0)
    layer = WithUnused()
    inputs = keras.Input((6,))
    model = model_class(inputs, keras.layers.Dense(1)(layer(inputs)))
    decaying = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    model.compile(kc.optimizers.Accumulate(decaying, 3), loss="mse")
    if keras.backend.backend() == "jax":  # where Keras' own step has zeros for it, and it decays
        fit(model, X, Y)
        assert np.all(layer.unused.numpy() < 1)
        return
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        fit(model, X, Y)
    np.testing.assert_array_equal(layer.unused.numpy(), [1, 1])


@pytest.mark.backend("tensorflow", "torch")
def test_a_variable_that_only_some_batches_reach(model_class):
    """On JAX a variable is reached by all batches or by none. Here by every other batch."""

    class EveryOther(keras.layers.Layer):
        def build(self, shape):
            self.shift = self.add_weight(shape=(1,), initializer="zeros", name="shift")
            self.calls = 0

        def call(self, x):
            self.calls += 1
            return x + self.shift if self.calls % 2 else x

    keras.utils.set_random_seed(0)
    layer = EveryOther()
    inputs = keras.Input((6,))
    model = model_class(inputs, layer(keras.layers.Dense(1)(inputs)))
    optimizer = accumulate(2, keras.optimizers.SGD(0.1))
    model.compile(optimizer, loss="mse", run_eagerly=True)
    residual = model.predict(X[:8], verbose=0) - Y[:8]
    layer.calls = 1  # the first of the two batches does without the shift, the second has it
    for _ in range(2):
        model.train_on_batch(X[:8], Y[:8])
    np.testing.assert_allclose(layer.shift.numpy(), [-0.1 * residual.mean()], rtol=1e-5)
    shift = layer.shift.numpy()
    for _ in range(2):
        layer.calls = 1  # neither batch of a window has it
        model.train_on_batch(X[:8], Y[:8])
    np.testing.assert_array_equal(layer.shift.numpy(), shift)
    layer.calls = 0
    residual = model.predict(X[:8], verbose=0) - Y[:8]
    layer.calls = 1  # once more the second has it, and nothing of the windows before is left
    for _ in range(2):
        model.train_on_batch(X[:8], Y[:8])
    np.testing.assert_allclose(
        layer.shift.numpy(), shift - 0.1 * residual.mean(), rtol=1e-5, atol=1e-7
    )


def test_16_bit_models_accumulate_in_32(model_class):
    keras.config.set_dtype_policy("bfloat16")
    model = compiled_net(model_class, accumulate(15, optimizer=keras.optimizers.SGD(0.1)))
    fit(model, X, Y)
    dtypes = {v.dtype for v in model.optimizer.variables if "accumulator" in v.name}
    assert dtypes == {"float32"}
    assert {v.dtype for v in model.trainable_variables} == {"bfloat16"}
    assert updates(model) == 1


def settings(optimizer):
    optimizer.learning_rate = 0.25
    return [float(optimizer.learning_rate.numpy()), optimizer.clipnorm, optimizer.weight_decay]


def test_settings_read_and_write_through():
    inner = keras.optimizers.AdamW(0.1, weight_decay=0.02, clipnorm=3.0)
    assert settings(accumulate(4, inner)) == [0.25, 3.0, 0.02]
    assert float(inner.learning_rate.numpy()) == 0.25


CALLBACKS = {
    "LearningRateScheduler": lambda path: keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate / 2
    ),
    "ReduceLROnPlateau": lambda path: keras.callbacks.ReduceLROnPlateau(
        monitor="loss", patience=0, min_delta=10.0, factor=0.3
    ),
    "CSVLogger": lambda path: keras.callbacks.CSVLogger(path / "log.csv"),
    "EarlyStopping": lambda path: keras.callbacks.EarlyStopping("val_loss", patience=2),
    "SwapEMAWeights": lambda path: keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_see_what_they_would_see_with_the_large_batch(name, tmp_path):
    """By both ways, with the mixin; 4 updates an epoch, the last of a window that is not full."""
    ema = {"use_ema": True, "ema_momentum": 0.5} if name == "SwapEMAWeights" else {}

    def adam():
        return keras.optimizers.Adam(0.01, **ema)

    results = []
    for way, (optimizer, batch_size, options) in {
        "large": (adam(), 32, {}),
        "accumulate": (accumulate(4, adam()), 8, {}),
        "microbatch_size": (adam(), 32, {"microbatch_size": 8}),
    }.items():
        folder = tmp_path / way
        folder.mkdir()
        model = compiled_net(kc.Model, optimizer, metrics=["mae"], **options)
        logs = fit(
            model,
            X[:104],
            Y[:104],
            batch_size=batch_size,
            epochs=3,
            callbacks=[CALLBACKS[name](folder)],
            validation_data=(X[104:], Y[104:]),
        )
        logs.pop("skipped_steps", None)
        columns = None
        if name == "CSVLogger":
            header, *lines = (folder / "log.csv").read_text().splitlines()
            columns = np.array([line.split(",") for line in lines], "float64")
            names = header.split(",")
            kept = [names.index(c) for c in ("epoch", "loss", "mae", "val_loss")]
            columns = columns[:, kept]
        results.append((model, logs, columns))
    (expected, expected_logs, expected_columns), *others = results
    for model, logs, columns in others:
        assert_same_weights(model, expected, 1e-5)
        assert set(logs) == set(expected_logs)
        for key, values in expected_logs.items():
            assert logs[key] == pytest.approx(values, rel=1e-4), key
        if columns is not None:
            np.testing.assert_allclose(columns, expected_columns, rtol=1e-4)


WAYS = {
    "large": (lambda: "adam", 32, {}),
    "accumulate": (lambda: accumulate(4), 8, {}),
    "microbatch_size": (lambda: "adam", 32, {"microbatch_size": 8}),
}


def test_the_progress_bar_shows_what_it_would_show_with_the_large_batch(capsys):
    """The means of the epochs; under `Accumulate` it counts the small batches."""
    shown = {}
    for way, (optimizer, batch_size, options) in WAYS.items():
        model = compiled_net(kc.Model, optimizer(), metrics=["mae"], **options)
        model.fit(X[:96], Y[:96], batch_size=batch_size, epochs=2, shuffle=False, verbose=2)
        lines = [line for line in capsys.readouterr().out.splitlines() if "loss:" in line]
        steps = {line.split(" ")[0] for line in lines}
        assert steps == {"12/12" if way == "accumulate" else "3/3"}
        shown[way] = re.findall(r"(loss|mae): ([\d.e+-]+)", " ".join(lines))
    assert len(shown["large"]) == 4
    for way in ("accumulate", "microbatch_size"):
        assert [name for name, _ in shown[way]] == [name for name, _ in shown["large"]]
        values, expected = ([float(v) for _, v in shown[w]] for w in (way, "large"))
        np.testing.assert_allclose(values, expected, atol=1.01e-4)  # the last digit shown


@pytest.mark.backend("tensorflow")
def test_tensorboard_records_what_it_would_record_with_the_large_batch(tmp_path):
    """Keras' callback writes through TensorFlow, which the other sessions do not have."""
    import tensorflow as tf

    def scalars(folder):
        values = {}
        for path in sorted(folder.rglob("events*")):
            for event in tf.compat.v1.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    if value.tag.startswith("epoch_"):
                        number = float(tf.make_ndarray(value.tensor))
                        values[path.parent.name, value.tag, event.step] = number
        return values

    recorded = {}
    for way, (optimizer, batch_size, options) in WAYS.items():
        model = compiled_net(kc.Model, optimizer(), metrics=["mae"], **options)
        board = keras.callbacks.TensorBoard(str(tmp_path / way), write_graph=False)
        data = (X[96:], Y[96:])
        fit(
            model,
            X[:96],
            Y[:96],
            batch_size=batch_size,
            epochs=2,
            callbacks=[board],
            validation_data=data,
        )
        recorded[way] = scalars(tmp_path / way)
    expected = recorded["large"]
    assert {"epoch_loss", "epoch_mae", "epoch_learning_rate"} <= {tag for _, tag, _ in expected}
    for way in ("accumulate", "microbatch_size"):
        for key, value in expected.items():
            assert recorded[way][key] == pytest.approx(value, rel=1e-4), (way, key)


def test_saved_and_loaded_in_the_middle_of_a_window(model_class, tmp_path):
    model = compiled_net(model_class, accumulate(4, last_window="carry"))
    fit(model, X[:80], Y[:80])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.batches.numpy()) == 2
    for m in (loaded, model):
        fit(m, X[80:], Y[80:])
    assert_same_weights(loaded, model, tolerance=0)
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("steps", [4, growing], ids=["integer", "function"])
def test_config_round_trip(steps):
    original = accumulate(
        steps, non_finite="skip_batch", last_window="drop", accumulator_dtype="float64"
    )
    if steps == 4:
        original.steps = 5
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(original))
    assert copy.get_config() == original.get_config()
    assert isinstance(copy.inner_optimizer, keras.optimizers.Adam)


def train_with_backup(path, callbacks=()):
    """4 epochs of 15 batches in windows of 4, with dropout; a backup after each epoch."""
    model = net(kc.Model, keras.layers.Dropout(0.3, seed=1))
    model.compile(accumulate(4, last_window="carry"), loss="mse")
    path = pathlib.Path(path)
    saved = [
        keras.callbacks.BackupAndRestore(path / "backup"),
        keras.callbacks.ModelCheckpoint(path / "model.keras", save_freq=5),
    ]
    history = fit(model, X, Y, epochs=4, callbacks=[*saved, *callbacks])
    return model, history


def test_killed_in_the_middle_of_a_window_and_resumed(tmp_path):
    """By BackupAndRestore from the end of an epoch, by ModelCheckpoint from within one; both are
    in the middle of a window. The weights are those of a run that nobody killed, to the bit."""
    train_until_killed("test_accumulate", tmp_path, epoch=1, batch=6)
    metadata = json.loads((tmp_path / "backup" / "training_metadata.json").read_text())
    assert metadata["epoch"] == 1

    whole, _ = train_with_backup(tmp_path / "whole")
    checkpoint = keras.saving.load_model(tmp_path / "model.keras")  # after 20 batches
    assert int(checkpoint.optimizer.batches.numpy()) == 0
    assert updates(checkpoint) == 5
    fit(checkpoint, X[40:], Y[40:])  # the rest of the second epoch
    fit(checkpoint, X, Y, epochs=2)
    assert_same_weights(checkpoint, whole, tolerance=0)

    resumed, history = train_with_backup(tmp_path)
    assert len(history["loss"]) == 3
    assert_same_state(resumed, whole)


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_that_are_not_positive(steps):
    with pytest.raises(ValueError, match=r"at least 1.*steps=4"):
        accumulate(steps)


@pytest.mark.parametrize("steps", [True, 2.0, 0.5, "4", None])
def test_steps_that_are_no_number_of_batches(steps):
    with pytest.raises(TypeError, match="positive integer"):
        accumulate(steps)


def test_steps_from_an_integer_to_a_function():
    with pytest.raises(TypeError, match="make a new Accumulate"):
        accumulate(4).steps = growing
    with pytest.raises(TypeError, match="make a new Accumulate"):
        accumulate(growing).steps = 4
    with pytest.raises(ValueError, match="at least 1"):
        accumulate(4).steps = 0


@pytest.mark.parametrize("option", ["non_finite", "last_window"])
def test_options_that_do_not_exist(option):
    with pytest.raises(ValueError, match=f"`{option}` is one of"):
        accumulate(4, **{option: "other"})


def test_an_accumulator_of_integers():
    with pytest.raises(ValueError, match="floating-point"):
        accumulate(4, accumulator_dtype="int32")


def test_optimizers_that_accumulate_themselves():
    with pytest.raises(ValueError, match=r"Accumulate\(Adam\(\.\.\.\), 3\)"):
        accumulate(4, keras.optimizers.Adam(gradient_accumulation_steps=3))
    with pytest.raises(ValueError, match="Heun was given Adam.gradient_accumulation_steps=3"):
        kc.optimizers.Heun(keras.optimizers.Adam(gradient_accumulation_steps=3))
    with pytest.raises(ValueError, match="the product of both"):
        accumulate(4, accumulate(2))


def test_several_gradients_a_step():
    with pytest.raises(ValueError, match=r"model.compile\(Heun\(...\), microbatch_size=16\)"):
        accumulate(4, kc.optimizers.Heun("adam"))
    with pytest.raises(ValueError, match="microbatch_size"):
        kc.optimizers.Heun(accumulate(4))


def test_loss_scale_goes_around():
    with pytest.raises(ValueError, match="goes around Accumulate"):
        accumulate(4, keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))


def test_a_step_of_ones_own_hands_its_gradients_to_the_window():
    """Batches of unequal size count by it there too, and a `sum` loss is added up."""

    class Step(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            def loss_function():
                return self.compute_loss(x, y, self(x, training=True), sample_weight)

            loss, gradients = self.value_and_grad(loss_function, self.trainable_variables)
            self.apply_gradients(gradients, self.trainable_variables)
            return {"loss": loss}

    for reduction, sizes, rate in (
        ("sum_over_batch_size", (8, 3, 13), 0.1),
        ("sum", (8, 8, 8), 0.01),
    ):
        optimizer = keras.optimizers.SGD(rate)
        model, expected = net(Step), net(keras.Model)
        loss = keras.losses.MeanSquaredError(reduction=reduction)
        model.compile(accumulate(3, optimizer), loss=loss)
        expected.compile(keras.optimizers.SGD(rate), loss=loss)
        for start, size in zip(np.cumsum((0, *sizes)), sizes):
            model.train_on_batch(X[start : start + size], Y[start : start + size])
        expected.train_on_batch(X[:24], Y[:24])
        assert updates(model) == 1
        assert_same_weights(model, expected)


def test_variables_frozen_later_stay(model_class):
    """Not moved by the end of a window with what an earlier fit has left in it."""
    if keras.backend.backend() == "jax" and model_class is keras.Model:
        pytest.skip("Keras' own step on JAX needs a new optimizer for other variables")
    optimizer = accumulate(4)
    model = compiled_net(model_class, optimizer)
    callbacks = [] if model_class is kc.Model else [kc.callbacks.FinishWindow()]
    fit(model, X, Y, callbacks=callbacks)
    model.layers[1].trainable = False
    model.compile(optimizer, loss="mse")
    before = model.layers[1].get_weights()
    fit(model, X[:40], Y[:40], callbacks=callbacks)
    assert_all_equal(model.layers[1].get_weights(), before)
    assert updates(model) == 4 + 2


@pytest.mark.parametrize("non_finite", ["skip_update", "skip_batch"])
def test_a_bad_batch_does_not_spoil_the_moving_statistics(non_finite):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    h = keras.layers.BatchNormalization()(inputs)
    model = kc.Model(inputs, keras.layers.Dense(1)(h))
    model.compile(accumulate(3, non_finite=non_finite), loss="mse")
    fit(model, not_finite(4), Y)
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())


def test_an_interrupted_window_does_not_leak_into_the_next_fit(model_class):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

    callbacks = [] if model_class is kc.Model else [kc.callbacks.FinishWindow()]
    model = compiled_net(model_class, accumulate(4))
    with pytest.raises(KeyboardInterrupt):
        fit(model, X, Y, callbacks=[*callbacks, Interrupt()])
    fit(model, X[16:48], Y[16:48], callbacks=callbacks)
    expected = compiled_net(keras.Model, "adam")
    for batch in (slice(0, 16), slice(16, 48)):
        expected.train_on_batch(X[batch], Y[batch])
    assert_same_weights(model, expected)


def test_a_callback_list_serves_another_optimizer_afterwards():
    callbacks = keras.callbacks.CallbackList([], add_history=True)
    for optimizer in (accumulate(4), "adam"):
        model = compiled_net(kc.Model, optimizer)
        callbacks.set_model(model)
        model.fit(X, Y, verbose=0, callbacks=callbacks)


def test_a_loss_that_depends_on_no_variable(model_class):
    class Constant(model_class):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.mean(y)

    model = net(Constant)
    model.compile(accumulate(4))
    if keras.backend.backend() == "jax" and model_class is keras.Model:
        fit(model, X, Y)  # Keras' own step on JAX has gradients of zero there
        return
    with pytest.raises((ValueError, RuntimeError), match="No gradients provided|does not require"):
        fit(model, X, Y)


@pytest.mark.parametrize("callback", ["report", "schedule"])
@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError("sum")], ids=["mean", "sum"])
def test_a_callback_in_the_step_of_a_plain_model_changes_nothing(callback, loss):
    """It gives the model the mixin; still all batches count alike, and windows are carried on."""
    x = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    arguments = {"batch_size": 6, "epochs": 2, "shuffle": False, "verbose": 0}  # the last is of 2

    def train(callbacks, injected=False):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        sgd = keras.optimizers.SGD(0.01, momentum=0.5)
        model.compile(kc.optimizers.Accumulate(sgd, 3), loss=loss)
        results = []
        for i in range(3):
            if injected and i == 1:
                kc.inject(model)
            logs = model.fit(x, x[:, :1], callbacks=callbacks(sgd), **arguments).history
            results += [int(model.optimizer.iterations.numpy()), *model.get_weights()]
        return results, sorted(logs)

    def callbacks(sgd):
        if callback == "report":
            return [kc.callbacks.StepMonitor()]
        return [kc.callbacks.Schedule((sgd, "momentum"), {0: 0.5})]

    (expected, _), (results, logs) = train(lambda sgd: []), train(callbacks)
    assert_all_close(results, expected, rtol=1e-5, atol=1e-6)
    assert results[6] == 8 and "skipped_steps" not in logs
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(kc.optimizers.Accumulate(keras.optimizers.SGD(0.01), 3), loss=loss)
    model.fit(x, x[:, :1], callbacks=[kc.callbacks.StepMonitor()], **arguments)
    for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(duplicate) is keras.Sequential  # a copy is as the model was made
        assert_all_equal(duplicate.get_weights(), model.get_weights())
    results, logs = train(callbacks, injected=True)
    assert results[6] > 8 and "skipped_steps" in logs  # the mixin by request
