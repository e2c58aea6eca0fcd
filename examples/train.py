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
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from program.errors import UserError, backend_required, require
from program.stopping import INTERRUPTED, stop_at_signals

if __name__ == "__main__":
    stop_at_signals()  # before the imports below, which take seconds

with backend_required("train.py"):
    import keras
    import numpy as np

    import keras_cool as kc
    from program.data import Data, load_data
    from program.divergence import DivergenceCheck, print_skipped_steps
    from program.history import Stopwatch, history_rows, plot_history, write_history
    from program.optimizers import make_optimizer
    from program.report import report, title
    from program.train_arguments import check_accumulate, parse_arguments
    from program.written_files import move_files, unfinished_folder, writing_to

RANGE_TEST = {"minimum": 1e-5, "maximum": 10.0, "steps": 100}
REPORTS = 100  # about as many are drawn


def compiled_model(
    arguments: argparse.Namespace, data: Data, optimizer: keras.optimizers.Optimizer
) -> kc.Model:
    """Builds the model, and compiles it with micro-batches."""
    keras.utils.set_random_seed(arguments.seed)
    model = build_model(data.x_train, classes=int(data.y_train.max()) + 1)  # a kc.Model
    model.compile(
        optimizer,
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        microbatch_size=arguments.microbatch_size,  # 16 of the 64 images of a batch at a time
    )
    return model


def train(
    arguments: argparse.Namespace, data: Data, learning_rate: float | None, folder: Path
) -> str:
    """Trains the model, writes the files of the run, and gives what is said at the end.

    Command line, data, files and signals are in `program/`.
    """
    updates = updates_an_epoch(arguments, data)
    optimizer = make_optimizer(  # kc.optimizers.Heun(0.4), or what `--optimizer` names
        arguments.optimizer, learning_rate, arguments.accumulate, arguments.warmup * updates
    )
    model = compiled_model(arguments, data, optimizer)
    stopwatch, divergence = Stopwatch(), DivergenceCheck()
    callbacks = [stopwatch, divergence]
    if arguments.report:
        monitor = kc.callbacks.StepMonitor(max(1, updates * arguments.epochs // REPORTS))
        callbacks.append(monitor)
    logs = model.fit(
        data.x_train,
        data.y_train,
        validation_data=(data.x_test, data.y_test),
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        callbacks=callbacks,
    ).history
    print_skipped_steps(logs)

    history = history_rows(logs, stopwatch)
    with writing_to(arguments.output):
        model.save(folder / "model.keras")
        write_history(history, folder / "history.csv")
        plot_history(history, title(arguments), folder / "history.png")
        if arguments.report:
            monitor.plot(folder / "step-monitor.png")
    table = report(arguments, history, stopwatch.batch_time())
    advice = divergence.advice(arguments, data.y_train, history)
    return f"{table}\n\n{advice}" if advice else table


def find_learning_rate(arguments: argparse.Namespace, data: Data, path: Path) -> float:
    """Runs the range test on a model of its own, draws it, and gives the rate that it suggests."""
    optimizer = make_optimizer(arguments.optimizer, None, arguments.accumulate)
    model = compiled_model(arguments, data, optimizer)
    finder = kc.callbacks.LearningRateFinder(**RANGE_TEST)
    batches = batches_an_epoch(arguments, data)
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


def batches_an_epoch(arguments: argparse.Namespace, data: Data) -> int:
    """Counts the batches of an epoch."""
    return math.ceil(len(data.x_train) / arguments.batch_size)


def updates_an_epoch(arguments: argparse.Namespace, data: Data) -> int:
    """Counts the updates of an epoch."""
    return math.ceil(batches_an_epoch(arguments, data) / arguments.accumulate)


def run(arguments: argparse.Namespace) -> None:
    """Checks everything, trains, and writes all files or none."""
    require("matplotlib", "matplotlib")
    make_optimizer(arguments.optimizer, arguments.learning_rate, arguments.accumulate)
    data = load_data(arguments.data)
    check_accumulate(arguments, batches_an_epoch(arguments, data))
    with unfinished_folder(arguments.output) as folder:
        rate = arguments.learning_rate
        if arguments.find_learning_rate:
            rate = find_learning_rate(arguments, data, folder / "learning-rate.png")
        summary = train(arguments, data, rate, folder)
        with writing_to(arguments.output):
            names = move_files(folder, arguments.output)
    print(summary)
    print(f"{', '.join(names[:-1])} and {names[-1]} are in {arguments.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix, 130 for Ctrl-C."""
    try:
        run(parse_arguments(__doc__, argv))
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
