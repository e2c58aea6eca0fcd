"""The history of a training: a row for each epoch, its times, a file and a picture."""

import csv
import statistics
import time
from pathlib import Path

import keras

CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")
COLUMNS = ("epoch", "gradient_evaluations", *CURVES, "seconds")


class Stopwatch(keras.callbacks.Callback):
    """Times every batch and every epoch."""

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

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.epochs.append(time.perf_counter() - self.epoch_start)

    def batch_time(self) -> str:
        """Gives the median time of a batch in words, without the first one, which compiles."""
        timed = self.batches[1:]
        return f"{1e3 * statistics.median(timed):.2f} ms" if timed else "one batch only"


def history_rows(logs: dict, stopwatch: Stopwatch) -> list[dict]:
    """Gives a row of `COLUMNS` for each epoch from the logs of `fit`."""
    epochs = len(stopwatch.epochs)
    batches = len(stopwatch.batches) // epochs
    evaluations = logs.get("gradient_evaluations", [batches * (e + 1) for e in range(epochs)])
    columns = logs | {
        "epoch": range(1, epochs + 1),
        "gradient_evaluations": [int(n) for n in evaluations],
        "seconds": [round(s, 3) for s in stopwatch.epochs],
    }
    return [dict(zip(COLUMNS, row)) for row in zip(*(columns[column] for column in COLUMNS))]


def write_history(history: list[dict], path: Path) -> None:
    """Writes the rows as a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(history)


def plot_history(history: list[dict], title: str, path: Path) -> None:
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
