"""What is in the logs: counts at the end of an epoch, and a progress bar of one line."""

import re

import keras
import numpy as np
import pytest

import keras_cool as kc

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")

OF_A_METHOD = ["gradient_evaluations", "skipped_steps"]
WAYS = {
    "heun": (lambda: {"optimizer": kc.optimizers.Heun(0.1)}, OF_A_METHOD),
    "rk45": (
        lambda: {"optimizer": kc.optimizers.RK45(0.1)},
        [*OF_A_METHOD, "flow_time", "rejected_tries", "step_size", "too_large_steps"],
    ),
    "accumulate": (
        lambda: {"optimizer": kc.optimizers.Accumulate("sgd", 2, non_finite="skip_batch")},
        ["skipped_batches", "skipped_steps"],
    ),
    "microbatches": (lambda: {"optimizer": "sgd", "microbatch_size": 2}, ["skipped_steps"]),
}


def model_for(way):
    inputs = keras.Input((3,))
    model = kc.Model(inputs, keras.layers.Dense(2)(inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**WAYS[way][0](), loss=loss, metrics=["accuracy"])
    return model


class Sees(keras.callbacks.Callback):
    """The names in the logs of steps and of epochs."""

    def __init__(self):
        super().__init__()
        self.of_steps, self.of_epochs = set(), set()

    def on_train_batch_end(self, batch, logs=None):
        self.of_steps |= set(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.of_epochs |= set(logs)


def lines_of(output):
    return re.split(r"[\r\n]", re.sub(r"\x1b\[\d*m|\x08", "", output))


@pytest.mark.parametrize("way", WAYS)
def test_counts_are_in_the_logs_of_an_epoch_and_not_in_the_progress_bar(way, capsys, tmp_path):
    sees, names = Sees(), WAYS[way][1]
    csv = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    model = model_for(way)
    history = model.fit(X, Y, batch_size=4, epochs=2, verbose=1, callbacks=[sees, csv]).history
    assert sees.of_steps == {"loss", "accuracy"}
    assert sees.of_epochs == set(history) == {"loss", "accuracy", *names}
    counted = [name for name in names if name not in ("flow_time", "step_size")]
    assert all(isinstance(count, int) for name in counted for count in history[name])
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert set(names) < set(header)

    lines = lines_of(capsys.readouterr().out)
    assert max(len(line) for line in lines) <= 80
    assert any("6/6" in line and "accuracy" in line and "loss" in line for line in lines)
    assert not any(name in line for line in lines for name in names)


def test_what_was_counted_is_read_off_the_model_too():
    model = model_for("heun")
    model.fit(X, Y, batch_size=4, verbose=0)
    assert model.step_counts() == {"gradient_evaluations": 12, "skipped_steps": 0}
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert (logs["gradient_evaluations"], logs["skipped_steps"]) == (14, 0)
    assert len(model.train_on_batch(X, Y)) == 2  # as Keras: the loss and the metric
    model.compile("sgd", loss=model.loss)
    assert model.step_counts() == {}


@pytest.mark.parametrize("way", ["heun", "microbatches"])
def test_the_progress_bar_shows_that_steps_were_skipped(way, capsys):
    x = X.copy()
    x[5] = np.nan
    history = model_for(way).fit(x, Y, batch_size=4, shuffle=False, verbose=1, epochs=2).history
    assert history["skipped_steps"] == [1, 2]
    ends = [line for line in lines_of(capsys.readouterr().out) if line.endswith("skipped_steps: 1")]
    assert len(ends) == 2


def test_validation_and_what_callbacks_add_fit_the_terminal_too(capsys):
    class Adds(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["a_value_with_quite_a_long_name"] = 1e-5

    model = model_for("microbatches")
    noise = kc.callbacks.GradientNoiseScale(frequency=1)
    history = model.fit(
        X, Y, batch_size=4, epochs=2, verbose=1, validation_data=(X, Y), callbacks=[noise, Adds()]
    ).history
    lines = lines_of(capsys.readouterr().out)
    assert max(len(line) for line in lines) <= 80
    for name in history.keys() - {"skipped_steps", "gradient_noise_scale_error"}:
        value = history[name][-1]
        number = f"{value:.4f}" if abs(value) > 1e-3 else f"{value:.4e}"
        assert sum(f" - {name}: {number}" in line for line in lines) >= 1, name
    assert sum("val_loss" in line for line in lines) == 2  # one an epoch


def test_no_progress_bar_and_one_of_the_users(capsys):
    bars = []

    class Own(keras.callbacks.ProgbarLogger):
        def on_epoch_end(self, epoch, logs=None):
            bars.append(sorted(logs))

    model = model_for("heun")
    model.fit(X, Y, verbose=0)
    assert capsys.readouterr().out == ""
    model.fit(X, Y, verbose=2, callbacks=[Own()])
    assert bars == [["accuracy", *OF_A_METHOD[:1], "loss", *OF_A_METHOD[1:]]]
    callbacks = keras.callbacks.CallbackList([], add_history=True, model=model, epochs=1, steps=1)
    assert "skipped_steps" in model.fit(X, Y, verbose=0, callbacks=callbacks).history


def test_the_update_of_a_last_window_is_counted_in_its_epoch():
    y = np.zeros((24, 1), "float32")
    y[20] = np.nan
    inputs = keras.Input((3,))
    model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(kc.optimizers.Accumulate("sgd", 4), loss="mse")
    for callbacks in ([], [kc.callbacks.FinishWindow()]):
        history = model.fit(X, y, batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)
        count = history.history["skipped_steps"]
        assert count == [1 + len(callbacks)]


def test_a_step_of_ones_own_has_no_count_of_what_it_does_not_count():
    class Own(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            def loss_function(x, y):
                return self.compute_loss(x, y, self(x, training=True))

            variables = self.trainable_variables
            loss, gradients = self.value_and_grad(loss_function, variables, batch=(x, y))
            self.apply_gradients(gradients, variables)
            return {"loss": loss}

    inputs = keras.Input((3,))
    model = Own(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", loss="mse", microbatch_size=2)
    assert set(model.fit(X, Y, verbose=0).history) == {"loss"}
