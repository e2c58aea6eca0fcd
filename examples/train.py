"""Trains a classifier of handwritten digits, by default with Heun's method: two gradients a step,
each of a soft batch, 64 images that are computed 16 at a time.

    KERAS_BACKEND=jax python examples/train.py
    KERAS_BACKEND=torch python examples/train.py --optimizer heun:adam --epochs 5
    KERAS_BACKEND=jax python examples/train.py --optimizer adam --batch-size 16 --accumulate 4
    KERAS_BACKEND=jax python examples/train.py --find-learning-rate --warmup 2 --report
    KERAS_BACKEND=tensorflow python examples/train.py --data my.npz --output runs/mine

It shows Keras' progress bar, prints a table at the end, and writes three files into `--output`:
`model.keras`, `history.csv` (a row an epoch) and `history.png`; `--find-learning-rate` adds
`learning-rate.png`, and `--report` adds `step-monitor.png`. The digits are the 1797 images of
scikit-learn, 360 of them (always the same ones) held out as the test set; nothing is downloaded.
The model takes the inputs as they are in the data, and gives the probability of each class.
"""

import argparse
import contextlib
import csv
import importlib.util
import math
import os
import shutil
import signal
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

INTERRUPTED = "train.py: interrupted, nothing was written"
UNFINISHED: list[Path] = []  # folders that a stopped run must not leave behind
COMPLETE = threading.Event()  # set once all is written, and only has to be moved into place


def stop(number: int, frame: object) -> None:
    """Ends the process at Ctrl-C or SIGTERM, without a trace of the unfinished run.

    It raises nothing: Keras catches every exception where it waits for the loss of a batch, a
    `KeyboardInterrupt` too, and trains on.
    """
    if COMPLETE.is_set():
        return
    for folder in UNFINISHED:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: in the middle of a print
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"\n{INTERRUPTED}\n".encode())
    os._exit(128 + number)


def stop_at_signals() -> None:
    """Lets Ctrl-C, SIGTERM and a closed terminal stop the run."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        under_nohup = name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN
        if number is not None and not under_nohup:
            signal.signal(number, stop)


if __name__ == "__main__":  # before the imports, which take seconds
    stop_at_signals()

try:
    import keras
    import numpy as np

    import keras_cool as kc
except (ImportError, ValueError) as error:  # no such backend, or not installed
    print(
        f"train.py: {' '.join(str(error).split()).rstrip('.')}. Install a backend and name it: "
        "pip install -e '.[jax,examples]' && KERAS_BACKEND=jax python examples/train.py",
        file=sys.stderr,
    )
    sys.exit(2)

METHODS = {
    "heun": kc.optimizers.Heun,
    "midpoint": kc.optimizers.Midpoint,
    "ralston": kc.optimizers.Ralston,
    "rk4": kc.optimizers.RK4,
    "rk23": kc.optimizers.RK23,
    "rk45": kc.optimizers.RK45,
    "tsit5": kc.optimizers.Tsit5,
    "chebyshev": kc.optimizers.RungeKuttaChebyshev,
}
CONTROLLED = ("rk23", "rk45", "tsit5")  # they choose their step sizes, the first one too
METHOD_LEARNING_RATE = 0.4
RANGE_TEST = {"minimum": 1e-5, "maximum": 10.0, "steps": 100}
REPORTS = 100  # about as many are drawn
MICROBATCH_SIZE = 16
NOT_BY_NAME = ("Optimizer", "MultiOptimizer", "LossScaleOptimizer")  # they need other arguments
OPTIMIZERS = {
    name.lower(): value
    for name, value in vars(keras.optimizers).items()
    if isinstance(value, type)
    and issubclass(value, keras.optimizers.Optimizer)
    and name not in NOT_BY_NAME
}
NOTATION = (
    f"a METHOD over plain gradient descent ({', '.join(METHODS)}), an OPTIMIZER of Keras "
    f"({', '.join(sorted(OPTIMIZERS))}), or METHOD:OPTIMIZER for the one over the other (heun:adam)"
)
DOWNLOADS = ("mnist", "fashion_mnist")
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")
COLUMNS = ("epoch", "gradient_evaluations", *CURVES, "seconds")


class UserError(Exception):
    """What the user can fix: printed as one line, without a traceback."""


class Data(NamedTuple):
    """Inputs `(n, d)`, `(n, h, w)` or `(n, h, w, c)`, and labels 0, 1, 2, ... of shape `(n,)`."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are `UserError`s."""

    def error(self, message: str) -> None:
        raise UserError(f"{message} (see --help)")


def number(kind: type, wanted: str, allowed: Callable[[float], bool]) -> Callable[[str], float]:
    """Makes a reader of the numbers that are allowed."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if allowed(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")

    return read


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; `argv=None` is that of the process."""
    count = number(int, "a whole number of at least 1", lambda n: n >= 1)
    rate = number(float, "a finite number above 0", lambda r: 0 < r < math.inf)
    seed = number(int, "a whole number from 0 to 2**32 - 1", lambda n: 0 <= n < 2**32)
    title, details = __doc__.split("\n\n", 1)
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("train.py", description=title, epilog=details, formatter_class=raw)
    add = parser.add_argument
    add("--optimizer", metavar="NAME", default="heun", help=f"{NOTATION}; default: heun")
    add(
        "--learning-rate",
        metavar="RATE",
        type=rate,
        help=f"default: {METHOD_LEARNING_RATE} for a METHOD ({', '.join(CONTROLLED)} choose it, "
        "and take a given one as the first), else Keras' own for the OPTIMIZER",
    )
    add("--batch-size", metavar="N", type=count, default=64, help="default: 64")
    add(
        "--microbatch-size",
        metavar="N",
        type=count,
        help="how many of a batch are computed at a time: less memory, the same result; default: "
        f"{MICROBATCH_SIZE}, or the whole of a smaller batch",
    )
    add(
        "--accumulate",
        metavar="N",
        type=count,
        default=1,
        help="how many batches make up an update of an OPTIMIZER: as if they were one; default: 1",
    )
    add("--epochs", metavar="N", type=count, default=20, help="default: 20")
    add(
        "--find-learning-rate",
        action="store_true",
        help="run a range test first and train with the rate that it suggests",
    )
    add(
        "--warmup",
        metavar="EPOCHS",
        type=count,
        default=0,
        help="let the learning rate grow from 0 over so many epochs, batch by batch; default: none",
    )
    add("--report", action="store_true", help="draw the norms of gradients and updates")
    add("--seed", metavar="N", type=seed, default=0, help="of weights and shuffling; default: 0")
    add(
        "--data",
        metavar=f"digits|{'|'.join(DOWNLOADS)}|PATH.npz",
        default="digits",
        help="a file holds x_train, y_train, x_test, y_test: images (n, h, w) or (n, h, w, c), or "
        "flat features (n, d), and labels 0, 1, 2, ...; the mnist are downloaded; default: digits",
    )
    add(
        "--output",
        metavar="DIR",
        type=Path,
        help="the files of an earlier run in it are replaced; default: runs/DATA-NAME-BACKEND",
    )
    arguments = parser.parse_args(argv)
    if arguments.microbatch_size is None:
        arguments.microbatch_size = min(MICROBATCH_SIZE, arguments.batch_size)
    check_soft_batch(parser, arguments)
    check_learning_rate(parser, arguments)
    if arguments.output is None:
        name = f"{Path(arguments.data).stem}-{arguments.optimizer}-{keras.backend.backend()}"
        arguments.output = Path("runs", name.replace(":", "-").lower())
    return arguments


def check_soft_batch(parser: Parser, arguments: argparse.Namespace) -> None:
    """Refuses sizes that do not go together."""
    size, microbatch, accumulate = (
        arguments.batch_size,
        arguments.microbatch_size,
        arguments.accumulate,
    )
    if microbatch > size:
        parser.error(
            f"--microbatch-size {microbatch} is more than a batch, --batch-size {size}; "
            f"give at most {size}, which computes a batch at once"
        )
    method = arguments.optimizer.lower().partition(":")[0]
    if accumulate > 1 and method in METHODS:
        parser.error(
            f"--accumulate {accumulate} does not go with --optimizer {arguments.optimizer}, which "
            f"needs several gradients of the same batch; give --batch-size {accumulate * size} "
            f"--microbatch-size {microbatch}"
        )


def check_learning_rate(parser: Parser, arguments: argparse.Namespace) -> None:
    """Refuses what sets the learning rate where something else does."""
    asked = [
        option
        for option, given in (
            ("--find-learning-rate", arguments.find_learning_rate),
            ("--warmup", arguments.warmup),
        )
        if given
    ]
    method = arguments.optimizer.lower().partition(":")[0]
    if asked and method in CONTROLLED:
        parser.error(
            f"{asked[0]} does not go with --optimizer {arguments.optimizer}, which chooses its "
            "step sizes itself; leave it out, or take another METHOD"
        )
    if arguments.find_learning_rate and arguments.learning_rate is not None:
        parser.error("--find-learning-rate looks for what --learning-rate says; give one of them")
    if arguments.warmup >= arguments.epochs and arguments.warmup:
        parser.error(
            f"--warmup {arguments.warmup} leaves no epoch of --epochs {arguments.epochs} at the "
            "full rate; give fewer"
        )


def load_data(name: str) -> Data:
    """Loads the data that `--data` names, and checks it."""
    if name == "digits":
        data = load_digits()
    elif name in DOWNLOADS:
        data = download(name)
    else:
        data = load_file(Path(name))
    return checked(data, f"--data {name}")


def load_digits() -> Data:
    """Loads the bundled 8x8 digits; the test set is a stratified fifth, the same in every run."""
    require("sklearn", "scikit-learn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        digits.images, digits.target, test_size=360, stratify=digits.target, random_state=0
    )
    return Data(x_train, y_train, x_test, y_test)


def download(name: str) -> Data:
    """Lets Keras download one of its data sets, or read the copy that it downloaded before."""
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception where the download fails
        raise UserError(
            f"--data {name} could not be downloaded ({one_line(error)}); "
            "check the connection, or take --data digits, which needs none"
        ) from error
    return Data(x_train, y_train, x_test, y_test)


def load_file(path: Path) -> Data:
    """Loads an `.npz` file."""
    if not path.is_file():
        known = ", ".join(("digits", *DOWNLOADS))
        raise UserError(f"--data {path}: no such file; give {known} or the path of an .npz file")
    save = "write it with numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in Data._fields}
            found = ", ".join(file.files) or "nothing"
    except Exception as error:  # zipfile, zlib and NumPy each have their own for a damaged file
        if "allow_pickle" in str(error):
            save += "; x.astype(float) and y.astype(str) make Python objects plain"
        raise UserError(f"--data {path}: not an .npz file of plain arrays; {save}") from error
    if missing := [key for key in Data._fields if key not in arrays]:
        raise UserError(f"--data {path}: {', '.join(missing)} missing, found {found}; {save}")
    return Data(**arrays)


def labels_advice(y: np.ndarray) -> str:
    """Says how labels of another kind become whole numbers."""
    if y.dtype.kind in "USOM":
        numbers = "classes, y_train = numpy.unique(y_train, return_inverse=True)"
        return f"from names: {numbers}; y_test = numpy.searchsorted(classes, y_test)"
    if y.ndim == 2 and y.shape[1] > 1:
        return "from one-hot: y.argmax(axis=1)"
    return "from numbers of another kind or in a column: y.reshape(-1).astype(int)"


def checked(data: Data, source: str) -> Data:
    """Gives the data with float32 inputs and int32 labels, or says what is wrong with it."""

    def check(condition: bool, problem: str) -> None:
        if not condition:
            raise UserError(f"{source}: {one_line(problem)}")

    def check_part(part: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shapes = "images (n, h, w) or (n, h, w, c), or flat features (n, d), at least one"
        check(x.ndim in (2, 3, 4) and x.size > 0, f"x_{part} has shape {x.shape}; give {shapes}")
        check(x.dtype.kind in "biuf", f"x_{part} has dtype {x.dtype}; give real numbers")
        given = f"y_{part} has dtype {y.dtype} and shape {y.shape}"
        check(
            y.ndim == 1 and y.dtype.kind in "iu",
            f"{given}; give one whole number an input, shape (n,); {labels_advice(y)}",
        )
        lengths = f"x_{part} has {len(x)} inputs and y_{part} {len(y)} labels"
        check(len(x) == len(y), f"{lengths}; give one label for each input")
        with np.errstate(over="ignore"):
            x = x.astype("float32")
        finite = bool(np.isfinite(x).all())
        check(finite, f"x_{part} has values that are not finite in float32; remove or replace them")
        return x, y

    x_train, y_train = check_part("train", data.x_train, data.y_train)
    x_test, y_test = check_part("test", data.x_test, data.y_test)
    shapes = f"the inputs of x_train have shape {x_train.shape[1:]}, of x_test {x_test.shape[1:]}"
    check(x_train.shape[1:] == x_test.shape[1:], f"{shapes}; give both the same")
    classes = np.unique(y_train)
    check(
        len(classes) > 1 and np.array_equal(classes, np.arange(len(classes))),
        f"the labels in y_train are {classes}; number them 0, 1, 2, ... without a gap, two at "
        "least: numpy.unique(y, return_inverse=True)[1]",
    )
    unknown = np.setdiff1d(y_test, classes)
    check(len(unknown) == 0, f"y_test has labels that y_train lacks, {unknown}; remove them")
    return Data(x_train, y_train.astype("int32"), x_test, y_test.astype("int32"))


def make_optimizer(
    name: str, learning_rate: float | None, accumulate: int = 1, warmup: int = 0
) -> keras.optimizers.Optimizer:
    """Makes the optimizer that `--optimizer` names.

    A rate of `None` is its default; with `warmup` it grows from 0 over so many updates.
    """
    method, colon, inner = name.lower().rpartition(":")
    if inner in METHODS and not colon:
        rate = None if inner in CONTROLLED else METHOD_LEARNING_RATE
        return METHODS[inner](warmed_up(learning_rate or rate, warmup))
    if inner not in OPTIMIZERS or (colon and method not in METHODS):
        raise UserError(f"--optimizer {name} is not known; give {NOTATION}")
    rate = learning_rate or float(OPTIMIZERS[inner]().learning_rate)
    optimizer = OPTIMIZERS[inner](learning_rate=warmed_up(rate, warmup))
    if accumulate > 1:
        return kc.optimizers.Accumulate(optimizer, accumulate)
    try:
        return METHODS[method](optimizer) if colon else optimizer
    except ValueError as error:
        raise UserError(f"--optimizer {name}: {one_line(error)}") from error


def warmed_up(
    rate: float | None, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule | None:
    """Gives the rate, or a schedule that grows from 0 to it."""
    return kc.optimizers.schedules.Warmup(rate, steps) if steps else rate


def build_model(x: np.ndarray, classes: int) -> kc.Model:
    """Builds a small convolutional net for images, a dense one for flat features."""
    layers = keras.layers
    inputs = outputs = keras.Input(x.shape[1:])
    if x.ndim == 3:
        x = x[..., None]
        outputs = layers.Reshape(x.shape[1:])(outputs)
    axes = tuple(range(x.ndim - 1))
    variance = x.var(axes, dtype="float64")
    variance[variance == 0] = 1  # a constant feature is shifted only
    outputs = layers.Normalization(mean=x.mean(axes, dtype="float64"), variance=variance)(outputs)
    if x.ndim == 4:
        for filters in (32, 64):
            outputs = layers.Conv2D(filters, 3, padding="same", activation="relu")(outputs)
            outputs = layers.MaxPooling2D(2, padding="same")(outputs)
        outputs = layers.Flatten()(outputs)
    else:
        outputs = layers.Dense(128, activation="relu")(outputs)
    outputs = layers.Dropout(0.4)(outputs)
    return kc.Model(inputs, layers.Dense(classes, activation="softmax")(outputs))


def compiled_model(
    arguments: argparse.Namespace, data: Data, optimizer: keras.optimizers.Optimizer
) -> kc.Model:
    """Builds the model for the data, and compiles it."""
    at_once = arguments.microbatch_size == arguments.batch_size
    model = build_model(data.x_train, classes=int(data.y_train.max()) + 1)
    model.compile(
        optimizer,
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        microbatch_size=None if at_once else arguments.microbatch_size,
    )
    return model


class Stopwatch(keras.callbacks.Callback):
    """Times every batch and every epoch, and ends a training that has diverged."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[float] = []
        self.epochs: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.batch_start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # Keras has made `logs` Python numbers by now, so the batch has been computed.
        self.batches.append(time.perf_counter() - self.batch_start)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch_start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        self.epochs.append(time.perf_counter() - self.epoch_start)
        if not math.isfinite(logs["val_loss"]):
            rate = float(self.model.optimizer.learning_rate)
            raise UserError(
                f"the test loss is not finite after epoch {epoch + 1}; "
                f"give a --learning-rate below {rate:g}"
            )


class FirstLoss(keras.callbacks.Callback):
    """Keeps the loss of the first batch, before any update."""

    value = math.nan

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        if math.isnan(self.value):
            self.value = logs["loss"]


def find_learning_rate(arguments: argparse.Namespace, data: Data, path: Path) -> float:
    """Runs the range test, draws it, and gives the rate that it suggests."""
    optimizer = make_optimizer(arguments.optimizer, None, arguments.accumulate)
    model = compiled_model(arguments, data, optimizer)
    batches = math.ceil(len(data.x_train) / arguments.batch_size)
    finder = kc.callbacks.LearningRateFinder(**RANGE_TEST)
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=arguments.batch_size,
        epochs=math.ceil(RANGE_TEST["steps"] * arguments.accumulate / batches),
        callbacks=[finder],
        verbose=0,
    )
    if finder.suggestion is None:
        raise UserError(
            "--find-learning-rate found no rate at which the loss falls; give a --learning-rate"
        )
    finder.plot(path)
    print(f"the range test suggests a learning rate of {finder.suggestion:.2g}")
    return finder.suggestion


def train(
    model: kc.Model, data: Data, batch_size: int, epochs: int, callbacks: Sequence = ()
) -> tuple[list[dict], str]:
    """Trains the model; gives a row of `COLUMNS` for each epoch, and the time a batch in words."""
    watch = Stopwatch()
    logs = model.fit(
        data.x_train,
        data.y_train,
        validation_data=(data.x_test, data.y_test),
        batch_size=batch_size,
        epochs=epochs,
        callbacks=[watch, *callbacks],
    ).history
    batches = len(watch.batches) // epochs
    evaluations = logs.get("gradient_evaluations", [batches * (e + 1) for e in range(epochs)])
    logs |= {
        "epoch": range(1, epochs + 1),
        "gradient_evaluations": [int(n) for n in evaluations],
        "seconds": [round(s, 3) for s in watch.epochs],
    }
    if skipped := int(logs.get("skipped_steps", [0])[-1]):
        print(f"\n{skipped} steps were skipped, their gradients were not finite: lower the rate.")
    history = [dict(zip(COLUMNS, row)) for row in zip(*(logs[column] for column in COLUMNS))]
    timed = watch.batches[1:]
    return history, f"{1e3 * statistics.median(timed):.2f} ms" if timed else "one batch only"


def divergence(arguments: argparse.Namespace, y: np.ndarray, losses: Sequence[float]) -> str:
    """Says that a model has not learned, and what to do.

    `losses` are those of the first batch, before any update, and of each epoch.
    """
    shares = np.bincount(y) / len(y)
    guessing = -float(shares @ np.log(shares))  # what the best constant answer costs
    if losses[-1] < 0.98 * guessing:
        return ""
    ended = f"the loss ended at {losses[-1]:.4g}, and guessing by the class sizes gives "
    ended += f"{guessing:.4g}"
    if arguments.optimizer.lower().partition(":")[0] in CONTROLLED:
        rate = "leave --learning-rate out, or take another --optimizer"
    else:
        rate = "run it with --find-learning-rate"
        if arguments.learning_rate:
            rate = f"give a --learning-rate below {arguments.learning_rate:g}, or {rate}"
    if max(losses) > 1.5 * max(losses[0], guessing):
        return f"The training diverged: {ended}.\nThe learning rate is too high: {rate}."
    rate = rate.replace("below", "above")
    return f"The model has learned nothing yet: {ended}.\nGive more --epochs, or {rate}."


def soft_batch(arguments: argparse.Namespace) -> str:
    """Gives the samples of an update in words."""
    size, microbatch = arguments.batch_size, arguments.microbatch_size
    batch = f"{arguments.accumulate} x {size}" if arguments.accumulate > 1 else str(size)
    return batch if microbatch == size else f"{batch}, {microbatch} at a time"


def report(arguments: argparse.Namespace, history: list[dict], batch_time: str) -> str:
    """Gives the closing table."""
    last = history[-1]
    cells = {
        "backend": keras.backend.backend(),
        "optimizer": arguments.optimizer,
        "batch": soft_batch(arguments),
        "gradient evaluations": str(last["gradient_evaluations"]),
        "loss (train)": f"{last['loss']:.4f}",
        "loss (test)": f"{last['val_loss']:.4f}",
        "test accuracy": f"{last['val_accuracy']:.4f}",
        "time a batch*": batch_time,
    }
    width = max(map(len, cells))
    lines = [f"{head:<{width}}  {cell}" for head, cell in cells.items()]
    return "\n".join(["", *lines, "* median over all batches but the first, which compiles"])


def plot(history: list[dict], title: str, path: Path) -> None:
    """Draws loss and accuracy against gradient evaluations."""
    from matplotlib.figure import Figure  # without pyplot: it draws with Agg, on any machine

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle(title)
    evaluations = [row["gradient_evaluations"] for row in history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy")):
        for column, label in ((name, "train (mean over the epoch)"), (f"val_{name}", "test")):
            axes.plot(evaluations, [row[column] for row in history], ".-", label=label)
        axes.set(xlabel="gradient evaluations", ylabel=name)
        axes.legend()
    figure.axes[0].set_yscale("log")
    for axes in figure.axes:
        axes.grid(which="both", alpha=0.3)
    figure.savefig(path, dpi=150)


def write_files(folder: Path, model: kc.Model, history: list[dict], title: str) -> None:
    """Writes the model, the history and the plot."""
    model.save(folder / "model.keras")
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(history)
    plot(history, title, folder / "history.png")


@contextlib.contextmanager
def writing_to(output: Path) -> Iterator[None]:
    """Makes what the file system says into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(
            f"--output {output}: {reason}; give a folder that can be written"
        ) from error


@contextlib.contextmanager
def unfinished_folder(output: Path) -> Iterator[Path]:
    """Makes a folder in `output` for the files of a run, and removes it again."""
    folder = output / f".unfinished-{uuid.uuid4().hex}"
    UNFINISHED.append(folder)
    try:
        with writing_to(output):
            folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        UNFINISHED.remove(folder)


def require(module: str, package: str) -> None:
    """Checks that a package is installed."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{package} is not installed; run: pip install {package}")


def one_line(message: object) -> str:
    """Gives a message on one line."""
    return " ".join(str(message).split())


def run(arguments: argparse.Namespace) -> None:
    """Checks everything, trains, and writes all files or none."""
    require("matplotlib", "matplotlib")
    keras.utils.set_random_seed(arguments.seed)
    make_optimizer(arguments.optimizer, arguments.learning_rate, arguments.accumulate)
    data = load_data(arguments.data)
    batches = math.ceil(len(data.x_train) / arguments.batch_size)
    if arguments.accumulate > batches:
        raise UserError(
            f"--accumulate {arguments.accumulate} is more than the batches of an epoch; "
            f"give at most {batches}, or a smaller --batch-size than {arguments.batch_size}"
        )
    with writing_to(arguments.output):
        arguments.output.mkdir(parents=True, exist_ok=True)
    updates = math.ceil(batches / arguments.accumulate)
    callbacks = []
    if arguments.report:
        frequency = max(1, updates * arguments.epochs // REPORTS)
        callbacks.append(kc.callbacks.StepMonitor(frequency))
    with unfinished_folder(arguments.output) as folder:
        rate = arguments.learning_rate
        if arguments.find_learning_rate:
            rate = find_learning_rate(arguments, data, folder / "learning-rate.png")
        optimizer = make_optimizer(
            arguments.optimizer, rate, arguments.accumulate, arguments.warmup * updates
        )
        keras.utils.set_random_seed(arguments.seed)
        model = compiled_model(arguments, data, optimizer)
        first = FirstLoss()
        observers = [first, *callbacks]
        history, batch_time = train(model, data, arguments.batch_size, arguments.epochs, observers)
        title = f"{arguments.optimizer} on {keras.backend.backend()}, {arguments.data}"
        title += f", batch of {soft_batch(arguments)}"
        with writing_to(arguments.output):
            write_files(folder, model, history, title)
            for callback in callbacks:
                callback.plot(folder / "step-monitor.png")
            names = sorted(path.name for path in folder.iterdir())
            COMPLETE.set()
            for name in names:
                (folder / name).replace(arguments.output / name)
    print(report(arguments, history, batch_time))
    losses = [first.value, *(row["loss"] for row in history)]
    if advice := divergence(arguments, data.y_train, losses):
        print(f"\n{advice}")
    print(f"{', '.join(names[:-1])} and {names[-1]} are in {arguments.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix, 130 for Ctrl-C."""
    try:
        run(parse_arguments(argv))
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()  # ends the line of the progress bar
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
