"""Times two or more ways of training side by side: in turn, in one process, medians of rounds."""

import os
import platform
import statistics
import time

import keras
import numpy as np


class EpochTimer(keras.callbacks.Callback):
    """The seconds of each epoch, from its first batch to its logs, which wait for the device."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        float(logs["loss"])
        self.seconds.append(time.perf_counter() - self.start)


def seconds_a_step(model, x, y, batch_size):
    """Trains one epoch; the seconds of one step of it."""
    timer = EpochTimer()
    model.fit(x, y, batch_size=batch_size, verbose=0, shuffle=False, callbacks=[timer])
    return timer.seconds[0] / -(-len(x) // batch_size)


def in_turn(sides, rounds):
    """Runs every side once a round, in an order that alternates.

    Args:
        sides: Dictionary of names and functions without arguments that return seconds.
        rounds: How many rounds count; one more goes before them, for compilation.

    Returns:
        Dictionary of names and lists of seconds, a value a round.
    """
    seconds = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name in sides if i % 2 else reversed(sides):
            value = sides[name]()
            if i:
                seconds[name].append(value)
    return seconds


def seconds_an_epoch(model, callbacks, x, y, batch_size, epochs):
    """Trains with callbacks; the seconds of an epoch, what they do around their epochs included."""
    first, last = [], []
    start = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: first.append(time.perf_counter())
    )

    def end_of_epoch(epoch, logs):
        float(logs["loss"])
        last.append(time.perf_counter())

    end = keras.callbacks.LambdaCallback(on_epoch_end=end_of_epoch)
    model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=[start, *callbacks, end],
    )
    return sum(b - a for a, b in zip(first, last, strict=True)) / epochs


def ratio(seconds, name, reference, factor=1.0):
    """The median over the rounds of one side's time over `factor` times another's, with the
    quartiles: `(median, low, high)`."""
    ratios = [a / (factor * b) for a, b in zip(seconds[name], seconds[reference], strict=True)]
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return median, low, high


def milliseconds(values):
    return 1e3 * statistics.median(values)


def machine():
    """One line on what the figures were measured with."""
    backend = keras.backend.backend()
    version = __import__(backend).__version__
    device = "CPU"
    if backend == "jax":
        device = __import__("jax").devices()[0].device_kind
    elif backend == "torch" and __import__("torch").cuda.is_available():
        device = __import__("torch").cuda.get_device_name()
    elif backend == "tensorflow":
        devices = __import__("tensorflow").config.list_physical_devices("GPU")
        device = devices[0].name if devices else "CPU"
    return (
        f"Keras {keras.__version__}, {backend} {version}, {device}, "
        f"{os.cpu_count()} processors, Python {platform.python_version()}"
    )


def settings():
    """The environment variables that matter, as they stand before a command."""
    # glibc's; see results/README.md.
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX")
    names += ("OMP_NUM_THREADS",)
    given = {"KERAS_BACKEND": keras.backend.backend()}
    given |= {name: os.environ[name] for name in names if name in os.environ}
    return "".join(f"{name}={value} " for name, value in given.items())
