"""`PythonMetric`: its values are in the logs on every backend, and its best model is kept.

The model has one weight, and its loss is its output: plain gradient descent at 0.1 takes 0.1 from
the weight at each step, so every value is known beforehand.
"""

import csv
import traceback
import warnings

import keras
import numpy as np
import pytest

from keras_cool.callbacks import PythonMetric
from support.comparisons import assert_all_equal
from support.training import fit
from support.ways_to_train import MODELS, WAYS

BATCHES = 4  # an epoch, of one sample each
X = np.ones((BATCHES, 1), "float32")
EAGER = {"run_eagerly": True}


def output(y, prediction):
    return prediction


def one_weight(kind="plain", **way):
    inputs = keras.Input((1,))
    outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs)
    model = MODELS[kind](inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), loss=output, **(way or EAGER))
    return model


def train_with(model, *callbacks, epochs=2, **arguments):
    return fit(
        model, X, X, **{"batch_size": 1, "epochs": epochs, **arguments}, callbacks=[*callbacks]
    )


def weight(model):
    return model.get_weights()[0][0, 0]


def predicted_weight(model):
    """The weight, by way of the outputs."""
    return model.predict(X[:1], verbose=0)[0, 0]


def steps_taken(model):
    return int(model.optimizer.iterations)


def scores(*values):
    """A function of the model that gives the first value after the first epoch, and so on."""
    return lambda model: values[steps_taken(model) // BATCHES - 1]


# ------------------------------------------------------------------- the same on every backend


@pytest.mark.parametrize("frequency", ["epoch", 3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_same_logs(kind, way, frequency):
    executed = WAYS[way].get("steps_per_execution", 1)
    ends = range(executed, 2 * BATCHES + 1, executed)
    due = ends if frequency == "epoch" else [s for s in ends if s % 3 < executed and s >= 3]
    expected = [-0.1 * max(s for s in due if s <= BATCHES * e) for e in (1, 2)]
    batches = []
    look = keras.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: batches.append(logs))
    model = one_weight(kind, **WAYS[way])
    evaluate = PythonMetric(
        lambda model: {"w": predicted_weight(model), "twice": 2 * weight(model)},
        "w",
        "min",
        frequency,
    )
    history = train_with(model, evaluate, look)
    np.testing.assert_allclose(history["w"], expected, rtol=1e-5)
    np.testing.assert_allclose(history["twice"], 2 * np.array(expected), rtol=1e-5)
    np.testing.assert_allclose(history["loss"], [-0.15, -0.55], rtol=1e-5)
    assert (evaluate.best, evaluate.best_epoch) == (history["w"][1], 1)
    if frequency == 3:
        assert [round(logs.get("w", 0) * -10) for logs in batches] == [
            max((d for d in due if d <= s), default=0) for s in ends
        ]


@pytest.mark.parametrize("kind", MODELS)
def test_looking_at_the_model_leaves_training_as_it_was(kind):
    x = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
    y = x[:, :1] > 0

    def trained(*callbacks):
        keras.utils.set_random_seed(1)
        model = MODELS[kind](*_dropout_and_normalisation())
        model.compile("adam", loss="mse", metrics=["mae"])
        history = model.fit(
            x, y, batch_size=8, epochs=2, validation_split=0.3, callbacks=callbacks, verbose=0
        )
        return history.history, model.get_weights()

    def look(model):
        model.predict(x, verbose=0)
        return model.evaluate(x, y, verbose=0, return_dict=True)["mae"]

    history, weights = trained()
    with_it, same_weights = trained(
        PythonMetric(look, "each"), PythonMetric(look, "step", frequency=1)
    )
    assert with_it.pop("each") == with_it.pop("step")
    assert with_it == history
    assert_all_equal(weights, same_weights)


def _dropout_and_normalisation():
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(8)(inputs)
    hidden = keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(hidden))
    return inputs, keras.layers.Dense(1)(hidden)


@pytest.mark.backend("torch")
def test_layers_that_read_the_mode_of_torch_go_on_in_training_mode():
    modes = []

    class ReadsTheMode(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            modes.append(self.dense.training)  # torch.nn.Module's
            return self.dense(x)

    model = ReadsTheMode()
    model.compile("sgd", loss="mse")
    train_with(model, PythonMetric(predicted_weight, "w", frequency=2), epochs=1)
    assert modes[-6:] == [True, True, False, True, True, False]


# ------------------------------------------------------------------- the best model


def f1_of_the_corpus(model, x, y):
    """F1 over the whole corpus, in plain Python."""
    predicted = [p[0] > 0.5 for p in model.predict(x, verbose=0).tolist()]
    hits = sum(1 for p, t in zip(predicted, y) if p and t)
    return 2 * hits / max(1, sum(predicted) + sum(y))


def test_evaluate_with_any_python_metric_and_keep_the_best_model(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 2)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0.3).tolist()
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(1, "sigmoid")]
    )
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(3.0), loss="binary_crossentropy")  # goes up and down
    seen = []

    def f1(model):
        seen.append((f1_of_the_corpus(model, x, y), [np.array(w) for w in model.get_weights()]))
        return seen[-1][0]

    folder = tmp_path / "new folder"
    evaluate = PythonMetric(f1, "f1", save_best=folder / "best.weights.h5")
    whole = PythonMetric(lambda model: seen[-1][0], "same", save_best=folder / "best.keras")
    data = {"x": x, "y": np.array(y), "batch_size": 40}
    history = model.fit(**data, epochs=4, callbacks=[evaluate, whole], verbose=0).history
    values = [value for value, _ in seen]
    assert history["f1"] == history["same"] == values
    assert values.index(max(values)) == 1
    for callback in (evaluate, whole):
        assert (callback.best, callback.best_epoch) == (max(values), 1)
    loaded = keras.saving.load_model(folder / "best.keras")
    model.load_weights(folder / "best.weights.h5")
    for best in (model, loaded):
        assert_all_equal(best.get_weights(), seen[1][1])
    assert f1_of_the_corpus(model, x, y) == max(values)


@pytest.mark.parametrize("ending", [".weights.h5", ".keras", None])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_best_weights_come_back(mode, ending, tmp_path):
    path = ending and str(tmp_path / f"best{ending}")
    model = one_weight()
    function = scores(2, 3, 1, 1) if mode == "max" else scores(2, 1, 3, 3)
    history = train_with(
        model, PythonMetric(function, "score", mode, save_best=path, restore_best=True), epochs=4
    )
    assert len(history["score"]) == 4
    assert weight(model) == pytest.approx(-0.1 * 2 * BATCHES)
    assert steps_taken(model) == 4 * BATCHES  # the optimizer's own state stays


def test_weights_stay_if_nothing_was_asked_for(tmp_path):
    model = one_weight()
    train_with(model, PythonMetric(scores(2, 1), "score", save_best=tmp_path / "best.keras"))
    assert weight(model) == pytest.approx(-0.1 * 2 * BATCHES)


def test_a_crash_while_saving_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "best.weights.h5"
    model = one_weight()
    train_with(model, PythonMetric(scores(1), "score", save_best=path), epochs=1)
    before = path.read_bytes()

    def crash(path, **_):
        path.write_bytes(b"half a file")
        raise OSError("no space left")

    model.save_weights = crash
    with pytest.raises(OSError, match="no space left"):
        train_with(model, PythonMetric(lambda model: 2, "score", save_best=path), epochs=1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_patience_counts_evaluations():
    function = scores(2, 3, 3, 1, 9)  # as good is not better
    history = train_with(one_weight(), PythonMetric(function, "score", patience=2), epochs=9)
    assert history["score"] == [2, 3, 3, 1]


def test_patience_ends_training_within_an_epoch():
    model = one_weight()
    train_with(model, PythonMetric(lambda model: 0, "zero", frequency=2, patience=2), epochs=9)
    assert steps_taken(model) == 6


# ------------------------------------------------------------------- among other callbacks


def test_keras_callbacks_take_the_value_for_a_metric(tmp_path, capsys):
    path, table = tmp_path / "{epoch}-{score:.0f}.weights.h5", tmp_path / "log.csv"
    model = one_weight()
    history = train_with(
        model,
        PythonMetric(scores(1, 3, 2, 2, 2, 2), "score"),
        keras.callbacks.ModelCheckpoint(
            path, "score", mode="max", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.ReduceLROnPlateau("score", mode="max", factor=0.5, patience=2),
        keras.callbacks.EarlyStopping("score", mode="max", patience=3),
        keras.callbacks.CSVLogger(table),
        epochs=6,
        verbose=2,
    )
    assert history["score"] == [1, 3, 2, 2, 2]
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    assert sorted(p.name for p in tmp_path.glob("*.h5")) == ["1-1.weights.h5", "2-3.weights.h5"]
    with table.open() as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == history["score"]
    assert "score: 3.0" in capsys.readouterr().out


def test_progress_bar_shows_the_value_within_the_epoch(capsys):
    train_with(
        one_weight(), PythonMetric(lambda model: 42, "answer", frequency=1), epochs=1, verbose=1
    )
    assert "answer: 42.0" in capsys.readouterr().out.split("4/4")[0]


def test_early_stopping_in_front_of_it_says_that_there_is_no_such_metric():
    early = keras.callbacks.EarlyStopping("score", mode="max")
    with pytest.warns(UserWarning, match="`score` which is not available"):
        train_with(one_weight(), early, PythonMetric(scores(1, 2), "score"))


# ------------------------------------------------------------------- interrupted and resumed


class Interrupt(keras.callbacks.Callback):
    """The end of the process, at the beginning of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def interrupted_and_resumed(make, folder, **arguments):
    """The callback, the model and the history of the second process."""
    backup = keras.callbacks.BackupAndRestore(folder / "backup")
    with pytest.raises(KeyboardInterrupt):
        train_with(one_weight(), make(), backup, Interrupt(2), **arguments)
    model, evaluate = one_weight(), make()
    history = train_with(model, evaluate, backup, **arguments)
    return evaluate, model, history


@pytest.mark.parametrize("frequency", ["epoch", 3])
def test_resumed_training_goes_on_as_the_uninterrupted_one(frequency, tmp_path):
    values = {4: 0, 3: 3, 6: 1, 8: 3, 9: 2, 12: 3}

    def function(model):
        return {"score": values.get(steps_taken(model), 0), "steps": steps_taken(model)}

    def make(name="a"):
        return PythonMetric(
            function,
            "score",
            frequency=frequency,
            save_best=tmp_path / f"{name}.weights.h5",
            restore_best=True,
            patience=3,
        )

    whole_model, whole = one_weight(), make("whole")
    history = train_with(whole_model, whole, epochs=9)
    second, model, rest = interrupted_and_resumed(make, tmp_path, epochs=9)
    assert len(rest["score"]) == len(history["score"]) - 2 > 0
    assert {key: value[2:] for key, value in history.items()} == rest
    assert (second.best, second.best_epoch) == (whole.best, whole.best_epoch)
    assert steps_taken(model) == steps_taken(whole_model)
    assert (
        weight(model)
        == weight(whole_model)
        == pytest.approx(-0.8 if frequency == "epoch" else -0.3)
    )


def test_best_weights_that_were_in_memory_are_missed_aloud(tmp_path):
    def make():
        return PythonMetric(scores(3, 2, 1, 1), "score", restore_best=True)

    with pytest.warns(UserWarning, match=r"PythonMetric\('score'\) resumes .* 3 .*save_best="):
        second, model, _ = interrupted_and_resumed(make, tmp_path, epochs=4)
    assert (second.best, second.best_epoch) == (3, 0)
    assert weight(model) == pytest.approx(-0.1 * 4 * BATCHES)


def test_a_new_training_begins_anew():
    model, evaluate = one_weight(), PythonMetric(scores(5, 4, 1, 2), "score")
    train_with(model, evaluate)
    assert evaluate.best == 5
    train_with(model, evaluate)
    assert (evaluate.best, evaluate.best_epoch) == (2, 1)


# ------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    "number",
    [3, np.float32(3), np.int64(3), np.array(3.0), keras.ops.ones(()) * 3],
    ids=lambda number: type(number).__name__,
)
def test_numbers_of_any_kind(number):
    (value,) = train_with(one_weight(), PythonMetric(lambda model: number, "three"), epochs=1)[
        "three"
    ]
    assert type(value) is float and value == 3


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, TypeError, "returned None of type NoneType"),
        ("3.0", TypeError, "returned '3.0' of type str"),
        ([3.0], TypeError, r"returned \[3.0\] of type list"),
        (np.ones(2), TypeError, r"type ndarray and shape \(2,\)"),
        ({"f1": "high"}, TypeError, "returned 'f1': 'high' of type str"),
        ({"f1": {"macro": 1}}, TypeError, "returned 'f1': {'macro': 1} of type dict"),
        ({"bleu": 1, "chrf": 2}, ValueError, "without 'f1', .* There are: 'bleu', 'chrf'"),
        ({"f1": 1, "loss": 2}, ValueError, "'loss', which is in the logs already"),
    ],
)
def test_what_is_not_a_number_is_named(returned, error, message):
    with pytest.raises(error, match=message) as raised:
        train_with(one_weight(), PythonMetric(lambda model: returned, "f1"), epochs=1)
    assert "PythonMetric('f1')" in str(raised.value)


@pytest.mark.parametrize(
    ("frequency", "when"), [("epoch", "at the end of epoch 1"), (3, "after 6 steps, in epoch 1")]
)
def test_what_the_function_raises_goes_on_with_a_note(frequency, when):
    def bleu(model):
        return {-0.4: 1, -0.3: 1}[round(float(weight(model)), 1)]

    with pytest.raises(KeyError) as raised:
        train_with(one_weight(), PythonMetric(bleu, "bleu", frequency=frequency), epochs=2)
    (note,) = raised.value.__notes__
    assert "PythonMetric('bleu')" in note and when in note
    assert "bleu" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]


def test_nan_is_never_the_best_and_warned_about_once():
    nan = float("nan")
    model, evaluate = (
        one_weight(),
        PythonMetric(scores(nan, 1, nan, nan, 5), "score", restore_best=True, patience=2),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = train_with(model, evaluate, epochs=5)
    about_nan = [str(w.message) for w in caught if "NaN" in str(w.message)]
    assert len(about_nan) == 1
    assert about_nan[0].startswith("PythonMetric('score') got NaN at the end of epoch 0")
    np.testing.assert_array_equal(history["score"], [nan, 1, nan, nan])
    assert (evaluate.best, evaluate.best_epoch) == (1, 1)
    assert weight(model) == pytest.approx(-0.1 * 2 * BATCHES)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"function": "f1"}, TypeError, "takes a function of the model.*given 'f1'"),
        ({"name": None}, TypeError, "`name` of PythonMetric"),
        ({"mode": "auto"}, ValueError, "'max' or 'min'.*'auto'"),
        ({"frequency": 0}, ValueError, "`frequency` of PythonMetric"),
        ({"patience": 0}, ValueError, "`patience` of PythonMetric is a positive integer"),
        ({"save_best": "best.h5"}, ValueError, r"save_best=.*\.weights\.h5 or \.keras"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        PythonMetric(**{"function": weight, "name": "w", **arguments})


def test_a_path_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"PythonMetric\(save_best=...\) cannot be written"):
        PythonMetric(weight, "w", save_best=tmp_path / "file" / "best.keras")
