"""Times two or more ways of training side by side: in turn, in one process, medians of rounds."""

import os
import platform
import statistics
import threading
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


class Turn(keras.callbacks.Callback):
    """Trains one epoch whenever it is its turn; `last` stands behind the callbacks it times."""

    def __init__(self):
        super().__init__()
        self.seconds = []
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self.last = keras.callbacks.LambdaCallback(on_epoch_end=self._stop)

    def take(self):
        """Lets the training go on for an epoch, and waits for its end."""
        self._go.release()
        self._done.acquire()

    def on_epoch_begin(self, epoch, logs=None):
        self._go.acquire()
        self._start = time.perf_counter()

    def _stop(self, epoch, logs):
        float(logs["loss"])
        self.seconds.append(time.perf_counter() - self._start)
        self._done.release()

    def train(self, model, callbacks, epochs, x, y, batch_size):
        """Trains in a thread of its own, which is returned."""

        def fit():
            try:
                model.fit(
                    x,
                    y,
                    batch_size=batch_size,
                    epochs=epochs,
                    verbose=0,
                    shuffle=False,
                    callbacks=[self, *callbacks, self.last],
                )
            finally:
                self._done.release()  # of an epoch that has failed

        thread = threading.Thread(target=fit)
        thread.start()
        return thread


def epochs_in_turn(sides, rounds, epochs=1):
    """As `in_turn`, where the rounds of a side are the epochs of one training.

    What a callback does now and then, or at the beginning of a training, counts as often as in a
    training. Each side trains in a thread, and waits until it is its turn.

    Args:
        sides: Dictionary of names and tuples `(model, callbacks, x, y, batch_size)`.
        rounds: How many rounds count; one more goes before them, for compilation.
        epochs: How many epochs make up a round.
    """
    total = (rounds + 1) * epochs
    turns = {name: Turn() for name in sides}
    threads = [turns[name].train(m, c, total, *r) for name, (m, c, *r) in sides.items()]

    def seconds(name):
        before = len(turns[name].seconds)
        for _ in range(epochs):
            turns[name].take()
        taken = turns[name].seconds[before:]
        if len(taken) != epochs:
            raise RuntimeError(f"The training of {name} has failed; see above.")
        return sum(taken) / epochs

    result = in_turn({name: lambda name=name: seconds(name) for name in sides}, rounds)
    for thread in threads:
        thread.join()
    return result


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
    given = {"KERAS_BACKEND": keras.backend.backend()}
    given |= {name: os.environ[name] for name in names if name in os.environ}
    return "".join(f"{name}={value} " for name, value in given.items())
