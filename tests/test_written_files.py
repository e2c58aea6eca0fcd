"""Ctrl-C and SIGTERM while a callback writes a file: it is whole, and nothing else is left."""

import os
import signal
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cool as kc

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


@pytest.fixture(params=["SIGINT", "SIGTERM"])
def left_behind(request, tmp_path, monkeypatch):
    """Sends the signal while a file is being written; gives what is there when it takes effect."""
    number = getattr(signal, request.param)
    left = []
    fsync = os.fsync
    earlier = signal.signal(number, lambda *_: left.extend(tmp_path.iterdir()))
    monkeypatch.setattr(os, "fsync", lambda file: (signal.raise_signal(number), fsync(file)))
    yield left
    signal.signal(number, earlier)


@pytest.mark.parametrize(
    ("name", "make", "load"),
    [
        (
            "best.keras",
            lambda path: kc.callbacks.PythonMetric(lambda model: 1.0, "one", save_best=path),
            keras.saving.load_model,
        ),
        ("states.npz", lambda path: kc.callbacks.Rescue(keep=path), np.load),
        ("points.npy", lambda path: kc.callbacks.Trajectory(file=path), np.load),
    ],
    ids=["evaluate", "rescue", "trajectory"],
)
def test_a_signal_leaves_a_whole_file_and_no_other(tmp_path, left_behind, name, make, load):
    def load_what_is_left(*_):
        assert left_behind
        for file in left_behind:
            assert file.suffix == Path(name).suffix and not file.name.startswith(".")
            load(file)

    model = kc.Model(inputs := keras.Input((3,)), keras.layers.Dense(1)(inputs))
    model.compile("sgd", loss="mse")
    check = keras.callbacks.LambdaCallback(on_epoch_end=load_what_is_left)
    callbacks = [make(tmp_path / name), check]
    model.fit(X, Y, batch_size=4, epochs=1, verbose=0, callbacks=callbacks)
