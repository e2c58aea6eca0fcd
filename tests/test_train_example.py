"""`examples/train.py`: what it writes and prints, its names and data, and its errors."""

import contextlib
import csv
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from matplotlib import image

import keras_cool as kc
from program.data import load_data
from program.history import Stopwatch, history_rows
from program.optimizers import METHODS, OPTIMIZERS, make_optimizer
from program.report import soft_batch
from program.train_arguments import parse_arguments
from support.examples import script

SCRIPT = Path(__file__).parents[1] / "examples" / "train.py"
FILES = ["history.csv", "history.png", "model.keras"]
COLUMNS = ["epoch", "gradient_evaluations", "loss", "accuracy", "val_loss", "val_accuracy"]


@pytest.fixture(scope="module")
def example():
    return script("train")


def save_toy(folder, shape=(5,), train=64, test=16, **changes):
    """Writes an `.npz` of two easy classes, with arrays changed or (`None`) left out."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", train), ("test", test)):
        y = np.arange(n) % 2
        x = rng.normal(size=(n, *shape)) + 2 * y.reshape(-1, *[1] * len(shape))
        arrays |= {f"x_{part}": 50 + 10 * x, f"y_{part}": y}
    arrays |= changes
    path = Path(folder, "toy.npz")
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def read_history(output):
    with Path(output, "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def run_toy(example, folder, *options):
    """Runs the example for two epochs on toy data; gives the output folder."""
    output = Path(folder, "out")
    data = save_toy(folder)
    argv = ["--data", str(data), "--output", str(output), "--epochs", "2", *options]
    assert example.main(argv) == 0
    return output


@pytest.mark.parametrize(
    "options",
    [["--optimizer=heun"], ["--optimizer=adam", "--accumulate=2"]],
    ids=["heun", "adam-accumulated"],
)
def test_finding_the_rate_warming_up_and_reporting(example, tmp_path, options, capsys):
    asked = ["--find-learning-rate", "--warmup=1", "--report", "--batch-size=16"]
    output = run_toy(example, tmp_path, *options, *asked)
    assert names_in(output) == sorted([*FILES, "learning-rate.png", "step-monitor.png"])
    for name in ("learning-rate.png", "step-monitor.png"):
        assert image.imread(output / name).std() > 0.01
    printed = capsys.readouterr().out
    rate = float(re.search(r"suggests a learning rate of ([\d.e+-]+)", printed)[1])
    assert 1e-5 < rate < 10
    model = keras.saving.load_model(output / "model.keras")
    warmup = keras.optimizers.serialize(model.optimizer)
    assert "Warmup" in str(warmup) and len(read_history(output)) == 2
    files = "history.csv, history.png, learning-rate.png, model.keras and step-monitor.png are in"
    assert files in printed


# ----------------------------------------------------------------------------- the default data


@pytest.fixture(scope="module")
def digits(example, tmp_path_factory):
    """Three epochs on the digits, otherwise by default."""
    output = tmp_path_factory.mktemp("digits") / "not" / "there" / "yet"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = example.main(["--epochs", "3", "--output", str(output)])
    assert code == 0
    return SimpleNamespace(output=output, printed=printed.getvalue(), rows=read_history(output))


def test_three_files_are_written_and_nothing_else(digits):
    assert names_in(digits.output) == FILES


def test_digits_are_learned(digits):
    assert float(digits.rows[-1]["val_accuracy"]) >= 0.9
    losses = [float(row["loss"]) for row in digits.rows]
    assert losses == sorted(losses, reverse=True)


def test_history_has_a_row_an_epoch(digits):
    assert list(digits.rows[0]) == [*COLUMNS, "seconds"]
    assert [row["epoch"] for row in digits.rows] == ["1", "2", "3"]
    # 1437 images in batches of 64 are 23 steps, of two gradients each.
    assert [row["gradient_evaluations"] for row in digits.rows] == ["46", "92", "138"]
    assert all(float(row["seconds"]) > 0 for row in digits.rows)


def test_the_saved_model_has_the_reported_accuracy_on_raw_images(digits):
    data = load_data("digits")
    assert data.x_train.shape == (1437, 8, 8)
    assert data.x_test.shape == (360, 8, 8)
    assert data.x_train.max() == 16  # as scikit-learn gives them
    model = keras.saving.load_model(digits.output / "model.keras")
    predicted = np.argmax(model.predict(data.x_test, verbose=0), axis=1)
    accuracy = np.mean(predicted == data.y_test)
    assert accuracy == pytest.approx(float(digits.rows[-1]["val_accuracy"]), abs=1e-6)


def test_the_table_agrees_with_the_history(digits):
    last = digits.rows[-1]
    *lines, note, _ = digits.printed.splitlines()[-10:]
    table = dict(re.split(r"\s{2,}", line) for line in lines)
    time = table.pop("time a batch*")
    assert list(table.items()) == [
        ("backend", keras.backend.backend()),
        ("optimizer", "heun"),
        ("batch", "64, 16 at a time"),
        ("gradient evaluations", "138"),
        ("loss (train)", f"{float(last['loss']):.4f}"),
        ("loss (test)", f"{float(last['val_loss']):.4f}"),
        ("test accuracy", f"{float(last['val_accuracy']):.4f}"),
    ]
    assert re.fullmatch(r"[\d.]+ ms", time) and 0 < float(time.split()[0]) < 5000
    assert "median" in note
    assert "first" in note


def test_the_plot_has_something_on_both_sides(digits):
    pixels = image.imread(digits.output / "history.png")[..., :3]
    height, width, _ = pixels.shape
    assert width > height > 500
    for half in (pixels[:, : width // 2], pixels[:, width // 2 :]):
        blue, orange = (
            np.all(np.abs(half - np.array(color)) < 0.02, axis=-1).sum()
            for color in ((0.122, 0.467, 0.706), (1.0, 0.498, 0.055))
        )
        assert blue > 500
        assert orange > 500


# ---------------------------------------------------------------------------------- options


def test_the_seed_decides_the_history(example, tmp_path):
    def history(seed):
        rows = read_history(run_toy(example, tmp_path, "--optimizer", "sgd", "--seed", seed))
        return [[row[column] for column in COLUMNS] for row in rows]

    first = history("3")
    assert history("3") == first
    assert history("4") != first


@pytest.mark.parametrize(("name", "evaluations"), [("heun:adam", 2), ("Adam", 1)])
def test_gradient_evaluations_are_counted(example, tmp_path, name, evaluations):
    output = run_toy(example, tmp_path, "--optimizer", name, "--batch-size", "16")
    counts = [int(row["gradient_evaluations"]) for row in read_history(output)]
    assert counts == [4 * evaluations, 8 * evaluations]  # 64 inputs


@pytest.mark.parametrize(
    "soft",
    [
        ["--batch-size", "32", "--microbatch-size", "8"],
        ["--batch-size", "32", "--microbatch-size", "12"],
        ["--batch-size", "8", "--accumulate", "4"],
        ["--batch-size", "16", "--microbatch-size", "4", "--accumulate", "2"],
    ],
    ids=" ".join,
)
def test_a_soft_batch_trains_as_the_large_one(example, tmp_path, monkeypatch, soft):
    build_model = example.build_model

    def without_dropout(x, classes):
        model = build_model(x, classes)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0  # its masks would be others
        return model

    monkeypatch.setattr(example, "build_model", without_dropout)

    def curves(*options):
        rows = read_history(run_toy(example, tmp_path, "--optimizer", "adam", *options))
        return [[float(row[c]) for c in ("loss", "val_loss", "val_accuracy")] for row in rows]

    large = curves("--batch-size", "32", "--microbatch-size", "32")
    np.testing.assert_allclose(curves(*soft), large, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "64, 16 at a time"),
        (["--batch-size=16"], "16"),
        (["--batch-size=4"], "4"),
        (["--batch-size=8", "--microbatch-size=8"], "8"),
        (["--optimizer=adam", "--accumulate=4", "--batch-size=16"], "4 x 16"),
        (["--optimizer=adam", "--accumulate=2", "--microbatch-size=3"], "2 x 64, 3 at a time"),
        (["--accumulate=1", "--microbatch-size=32"], "64, 32 at a time"),
    ],
)
def test_the_soft_batch_in_words(example, options, words):
    assert soft_batch(parse_arguments(example.__doc__, options)) == words


def test_every_keras_optimizer_has_its_name():
    wanted = {"sgd", "adam", "adamw", "rmsprop", "nadam", "lion", "adafactor", "muon", "lamb"}
    assert wanted <= set(OPTIMIZERS)
    for name, optimizer in OPTIMIZERS.items():
        plain = make_optimizer(name, None)
        assert isinstance(plain, optimizer)  # on PyTorch, Keras' own subclass of it
        assert float(plain.learning_rate) == float(optimizer().learning_rate)
        over = make_optimizer(f"heun:{name}", 0.25)
        assert type(over) is kc.optimizers.Heun
        assert isinstance(over.inner_optimizer, optimizer)
        assert float(over.learning_rate) == 0.25


@pytest.mark.parametrize(
    "name", ["midpoint", "ralston", "rk4", "rk23", "rk45", "tsit5", "chebyshev"]
)
def test_every_method_has_its_name(name):
    assert set(METHODS) >= {"heun", name}
    for rate in (None, 0.5):
        alone = make_optimizer(name, rate)
        assert type(alone) is METHODS[name]
        assert type(make_optimizer(f"{name}:adam", rate)) is type(alone)
        if rate is not None:
            assert float(alone.learning_rate) == rate


def test_a_controlled_method_trains(example, tmp_path):
    rows = read_history(run_toy(example, tmp_path, "--optimizer", "rk23", "--batch-size", "16"))
    assert int(rows[-1]["gradient_evaluations"]) >= 4 * 4
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_a_method_over_what_follows_no_flow_is_refused(refuse):
    refuse("--optimizer", "rk45:lion", says="none along a gradient flow.*adaptive=False")


def test_heun_alone_is_over_plain_gradient_descent():
    optimizer = make_optimizer("heun", 0.5)
    assert type(optimizer) is kc.optimizers.Heun
    assert isinstance(optimizer.inner_optimizer, keras.optimizers.SGD)
    assert float(optimizer.inner_optimizer.momentum) == 0
    assert float(optimizer.learning_rate) == 0.5


@pytest.mark.parametrize("shape", [(5,), (1, 3), (6, 7, 3), (28, 28)])
def test_data_of_any_shape(example, tmp_path, shape):
    data = load_data(str(save_toy(tmp_path, shape=shape)))
    model = example.build_model(data.x_train, 2)
    assert isinstance(model, kc.Model)
    convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)
    assert convolutions == (0 if len(shape) == 1 else 2)
    probabilities = keras.ops.convert_to_numpy(model(data.x_test))
    assert probabilities.shape == (16, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_flat_data_is_learned(example, tmp_path):
    output = run_toy(example, tmp_path)
    assert names_in(output) == FILES
    assert float(read_history(output)[-1]["val_accuracy"]) >= 0.9
    model = keras.saving.load_model(output / "model.keras")
    assert model.input_shape == (None, 5)
    assert not any(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)


def test_inputs_are_normalized_in_the_model(example):
    x = np.array([[1.0, 100.0, 7.0], [3.0, 300.0, 7.0]], "float32")
    model = example.build_model(x, 2)
    layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    given = np.array([[1.0, 300.0, 8.0]], "float32")
    normalized = keras.ops.convert_to_numpy(layer(given))
    np.testing.assert_allclose(normalized, [[-1.0, 1.0, 1.0]], rtol=1e-5)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_loaders_of_keras_are_used(monkeypatch, name):
    x, y = np.full((20, 28, 28), 255, "uint8"), np.arange(20, dtype="uint8") % 10
    loader = getattr(keras.datasets, name)
    monkeypatch.setattr(loader, "load_data", lambda: ((x, y), (x[:10], y[:10])))
    data = load_data(name)
    assert data.x_train.shape == (20, 28, 28)
    assert data.x_train.dtype == "float32"
    assert data.y_test.tolist() == list(range(10))


def test_the_time_a_batch_leaves_the_first_out():
    stopwatch = Stopwatch()
    stopwatch.batches = [100.0, 0.002, 0.009, 0.003]
    stopwatch.epochs = [101.0, 0.5]
    curves = ("loss", "accuracy", "val_loss", "val_accuracy")
    history = history_rows({curve: [0.5, 0.25] for curve in curves}, stopwatch)
    assert stopwatch.batch_time() == "3.00 ms"
    assert [row["gradient_evaluations"] for row in history] == [2, 4]
    assert [row["seconds"] for row in history] == [101.0, 0.5]


def test_as_users_run_it(tmp_path):
    save_toy(tmp_path)
    command = [sys.executable, str(SCRIPT), "--data", "toy.npz", "--epochs", "2"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Epoch 2/2" in done.stdout  # Keras' progress bar
    assert "gradient evaluations" in done.stdout
    assert names_in(tmp_path / "runs" / f"toy-heun-{keras.backend.backend()}") == FILES


def environment(**changes):
    places = [str(Path(kc.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(place for place in places if place)
    return {**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": keras.backend.backend(), **changes}


# ----------------------------------------------------------------------------------- errors


@pytest.fixture
def refuse(example, tmp_path, capsys, monkeypatch):
    """Checks that a command line is refused before training, in one line, with nothing written."""

    def check(*argv, says, output=None):
        # What trains after all must not look like a refusal.
        monkeypatch.setattr(example, "train", lambda *_: pytest.fail("it went on to train"))
        output = output or tmp_path / "out"
        assert example.main(["--output", str(output), *map(str, argv)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("train.py: ")
        assert error.count("\n") == 1
        assert re.search(says, error), error
        assert not output.is_dir() or names_in(output) == []

    return check


@pytest.mark.parametrize(
    ("changes", "says"),
    {
        "missing key": ({"y_test": None}, "y_test missing, found x_train.*savez"),
        "lengths": ({"y_train": np.arange(63) % 2}, "64 inputs and y_train 63 labels; give one"),
        "float labels": ({"y_train": np.ones(64)}, "y_train has dtype float64.*whole number"),
        "column": ({"y_train": np.zeros((64, 1), int)}, r"y_train .*\(64, 1\).*reshape\(-1\)"),
        "names": (
            {"y_train": np.array(["cat", "dog"] * 32)},
            r"y_train has dtype <U3 .*names: classes, y_train = .*unique.*= numpy.searchsorted",
        ),
        "names as objects": (
            {"y_train": np.array(["cat", "dog"] * 32, object)},
            r"not an .npz file of plain arrays.*y.astype\(str\)",
        ),
        "one-hot labels": ({"y_test": np.eye(16, dtype=int)}, r"y_test .*\(16, 16\).*argmax"),
        "a gap": ({"y_train": np.arange(64) % 2 * 2}, r"labels in y_train are \[0 2\].*unique"),
        "negative labels": ({"y_train": np.arange(64) % 2 - 1}, r"are \[-1 0\].*number them"),
        "one class": ({"y_train": np.zeros(64, int)}, r"are \[0\].*two at least"),
        "new test label": ({"y_test": np.arange(16) % 3}, r"y_train lacks, \[2\]; remove"),
        "other test shape": ({"x_test": np.ones((16, 6))}, r"\(5,\), of x_test \(6,\); give both"),
        "rank 1": ({"x_train": np.ones(64)}, r"x_train has shape \(64,\); give images"),
        "rank 5": ({"x_test": np.ones((16, 1, 1, 1, 1))}, r"x_test has shape .*give images"),
        "no inputs": ({"x_test": np.ones((0, 5)), "y_test": np.ones(0, int)}, r"\(0, 5\).*one"),
        "no features": ({"x_train": np.ones((64, 0))}, r"\(64, 0\); give"),
        "nan": ({"x_test": np.full((16, 5), np.nan)}, "x_test.*not finite.*remove or replace"),
        "overflow": ({"x_train": np.full((64, 5), 1e300)}, "x_train.*not finite.*remove"),
        "text": ({"x_train": np.full((64, 5), "a")}, "x_train has dtype <U1; give real numbers"),
        "objects": ({"x_train": np.full((64, 5), None)}, "not an .npz file of plain arrays.*savez"),
    }.values(),
    ids=lambda value: re.sub(r"\W+", "-", value)[:30] if isinstance(value, str) else "",
)
def test_unfit_data_is_refused(refuse, tmp_path, changes, says):
    with np.errstate(all="ignore"):
        changes = {k: None if v is None else np.asarray(v) for k, v in changes.items()}
        path = save_toy(tmp_path, **changes)
    refuse("--data", path, says=says)


def test_unfit_files_are_refused(refuse, tmp_path):
    refuse("--data", tmp_path / "none.npz", says=r"none.npz: no such file; give digits, mnist")
    refuse("--data", "minst", says=r"--data minst: no such file; give digits, mnist")
    refuse("--data", tmp_path, says="no such file")
    whole = save_toy(tmp_path).read_bytes()
    for content in (b"", b"not a zip file", whole[:200], whole[:300] + bytes(64) + whole[364:]):
        (tmp_path / "bad.npz").write_bytes(content)
        refuse("--data", tmp_path / "bad.npz", says="not an .npz file of plain arrays; write it")
    np.save(tmp_path / "one.npy", np.ones(3))
    refuse("--data", tmp_path / "one.npy", says="not an .npz file of plain arrays; write it")


@pytest.mark.parametrize(
    "name",
    ["adamm", "", "heun:", ":adam", "heun:heun", "adam:heun", "optimizer", "heun:multi:adam"],
)
def test_unknown_optimizers_are_refused(refuse, name):
    refuse("--optimizer", name, says="is not known; give a METHOD .*heun.* sgd.*heun:adam")


@pytest.mark.parametrize(
    ("option", "values", "says"),
    [
        ("--learning-rate", ["-0.1", "0", "nan", "inf", "fast"], "is not a finite number above 0"),
        ("--batch-size", ["0", "-1", "1.5", "many"], "is not a whole number of at least 1"),
        ("--microbatch-size", ["0", "-1", "1.5", "all"], "is not a whole number of at least 1"),
        ("--accumulate", ["0", "-1", "1.5", "no"], "is not a whole number of at least 1"),
        ("--epochs", ["0", "-3", "nan"], "is not a whole number of at least 1"),
        ("--seed", ["-1", str(2**32), "x"], "is not a whole number from 0"),
    ],
)
def test_unfit_numbers_and_options_are_refused(refuse, option, values, says):
    for value in values:
        refuse(f"{option}={value}", says=f"{option}.*{says}")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--microbatch-size=65"], "65 is more than a batch, --batch-size 64; give at most 64"),
        (["--batch-size=8", "--microbatch-size=9"], "9 is more than a batch.*at most 8"),
        (["--accumulate=2"], "--accumulate 2 .*--optimizer heun.*several gradients"),
        (
            ["--accumulate=3", "--optimizer=Heun:adam", "--batch-size=8"],
            "give --batch-size 24 --microbatch-size 8",
        ),
        (["--find-learning-rate", "--optimizer=rk45"], "--find-learning-rate .*rk45, which choos"),
        (["--warmup=2", "--optimizer=tsit5:adam"], "--warmup does not go with .*tsit5:adam"),
        (["--find-learning-rate", "--learning-rate=1"], "--learning-rate says; give one of them"),
        (["--warmup=20"], "--warmup 20 leaves no epoch of --epochs 20"),
        (["--accumulate=24", "--optimizer=adam"], "24 is more than .* an epoch; give at most 23"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(refuse, options, says):
    refuse(*options, says=says)


def test_unknown_options_are_refused(refuse):
    refuse("--rate=1", says="unrecognized arguments: --rate=1 .see --help")


def test_an_output_that_cannot_be_written_is_refused(refuse, tmp_path):
    data = save_toy(tmp_path)
    for output in (data, data / "below"):
        refuse("--data", data, output=output, says="toy.npz.*give a folder that can be written")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_failed_download_is_refused(refuse, monkeypatch, name):
    def load_data():
        raise Exception("URL fetch failure on\nhttps://somewhere")  # as Keras does

    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", load_data)
    refuse("--data", name, says=f"{name} could not be downloaded.*on https.*take --data digits")


def test_a_missing_package_is_refused(refuse, monkeypatch):
    find = importlib.util.find_spec
    for module, package in (("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")):
        with monkeypatch.context() as patch:
            patch.setattr(
                importlib.util,
                "find_spec",
                lambda name, *_, lost=module: None if name == lost else find(name),
            )
            refuse(says=f"{package} is not installed; run: pip install {package}")


def test_a_missing_backend_is_one_line():
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env=environment(KERAS_BACKEND="nonsense"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nonsense" in done.stderr
    assert "KERAS_BACKEND=jax python examples/train.py" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--learning-rate=20"],
            r"diverged: .*\nThe .* too high: give .*rate below 20, or run",
        ),
        (
            ["--optimizer=sgd", "--learning-rate=1e-9"],
            r"learned nothing yet: .* guessing .* gives 0.69.*\nGive more --epochs, .* above 1e-09",
        ),
        (
            ["--optimizer=rk23", "--learning-rate=1e-9"],
            r"learned nothing yet: .*\nGive more --epochs, or leave --learning-rate out",
        ),
        ([], None),
    ],
    ids=["diverged", "too small", "controlled", "learned"],
)
def test_a_training_that_learned_nothing_says_so(example, tmp_path, capsys, options, says):
    labels = np.random.default_rng(1).permutation(np.arange(64) % 2)
    changes = {"y_train": labels} if says else {}  # nothing to learn
    if says and "yet" in says:
        changes["x_train"] = np.ones((64, 5))  # the first loss is that of guessing
    data = str(save_toy(tmp_path, **changes))
    output = tmp_path / "out"
    argv = ["--data", data, "--output", str(output), "--epochs=2", "--batch-size=32", *options]
    assert example.main(argv) == 0
    printed = capsys.readouterr().out
    if says is None:
        assert "guessing" not in printed
    else:
        assert re.search(says, printed)
    assert names_in(output) == FILES


# Each runs the script with a signal at a moment of its choice.
WHILE_KERAS_WAITS = """
from keras.src import backend
real = backend.convert_to_numpy
def convert_to_numpy(x):
    if sys._getframe(1).f_code.co_name == "pythonify_logs":  # its bare `except` drops exceptions
        strike()
    return real(x)
backend.convert_to_numpy = convert_to_numpy
"""
WHILE_IT_IMPORTS = """
class Strike:
    def find_spec(self, name, *_):
        if name == "keras":
            strike()
sys.meta_path.insert(0, Strike())
"""
WHILE_FILES_ARE_MOVED = """
from pathlib import Path
real = Path.replace
Path.replace = lambda *paths: strike() or real(*paths)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (WHILE_KERAS_WAITS, signal.SIGINT),
        (WHILE_KERAS_WAITS, signal.SIGTERM),
        (WHILE_IT_IMPORTS, signal.SIGINT),
        (WHILE_FILES_ARE_MOVED, signal.SIGTERM),
    ],
    ids=["waiting-int", "waiting-term", "importing-int", "moving-term"],
)
def test_a_signal_ends_the_run_and_leaves_all_files_or_none(tmp_path, moment, number):
    save_toy(tmp_path)
    script = f"""
import os, runpy, sys
def strike():
    os.kill(os.getpid(), {int(number)})
{moment}
sys.path.insert(0, {str(SCRIPT.parent)!r})  # as `python train.py` does
sys.argv = ["train.py", "--data=toy.npz", "--epochs=1", "--output=out"]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if moment == WHILE_FILES_ARE_MOVED:
        assert done.returncode == 0, done.stderr
        assert names_in(tmp_path / "out") == FILES
    else:
        assert done.returncode == 128 + number, done.stderr
        assert done.stderr.endswith("train.py: interrupted, nothing was written\n")
        assert not (tmp_path / "out").exists() or names_in(tmp_path / "out") == []


def test_a_diverging_training_ends_with_the_fix(example, tmp_path, capsys):
    output = tmp_path / "out"
    data = str(save_toy(tmp_path))
    options = ["--optimizer", "sgd", "--learning-rate", "1e38"]
    assert example.main(["--data", data, "--output", str(output), *options]) == 2
    assert re.search(
        r"train.py: .* not finite after epoch 1; give a --learning-rate below 1e\+38\n",
        capsys.readouterr().err,
    )
    assert names_in(output) == []


@pytest.mark.parametrize(
    ("failing", "error", "code", "says"),
    [
        ("train", KeyboardInterrupt(), 130, "interrupted, nothing was written"),
        ("plot_history", KeyboardInterrupt(), 130, "interrupted, nothing was written"),
        (
            "plot_history",
            OSError(28, "No space left on device"),
            2,
            "No space left on device; give a ",
        ),
    ],
    ids=["interrupted in training", "interrupted in writing", "disk full"],
)
def test_an_earlier_run_stays_whole(
    example, tmp_path, capsys, monkeypatch, failing, error, code, says
):
    output = tmp_path / "out"
    output.mkdir()
    for name in FILES:
        (output / name).write_text("of an earlier run")

    def fail(*_, **__):
        raise error

    if failing == "train":
        monkeypatch.setattr(Stopwatch, "on_train_batch_end", fail)
    else:
        monkeypatch.setattr(example, failing, fail)
    data = str(save_toy(tmp_path))
    argv = ["--data", data, "--output", str(output), "--epochs", "1", "--optimizer", "sgd"]
    assert example.main(argv) == code
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("train.py")]
    assert says in line
    assert names_in(output) == FILES
    assert {(output / name).read_text() for name in FILES} == {"of an earlier run"}
