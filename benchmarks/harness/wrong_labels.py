"""Digits with wrong labels: the data and the net of `sharpness.py` and `averaging.py`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_cool as kc

TRAINING, VALIDATION, TEST, BATCH, UNITS = 1088, 349, 360, 64, 256
STEPS_AN_EPOCH = TRAINING // BATCH
RATES = tuple(0.2 / 10 ** (k / 2) for k in range(5))  # 0.2 to 0.002
TUNING_SEEDS = (1001, 1002)


class Parts(NamedTuple):
    """All images with their right labels, what the training part is told, and the parts."""

    x: np.ndarray
    y: np.ndarray
    told: np.ndarray
    validation: slice
    test: slice


def load_parts(seed, wrong):
    """The data of a seed: which training labels are wrong. The images of the parts are fixed.

    Args:
        seed: Integer.
        wrong: Float, which part of the training labels is wrong, any other class as likely.

    Returns:
        `Parts`; the first `TRAINING` images are the training part.
    """
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = (data.data / 16).astype("float32")[order], data.target.astype("int32")[order]
    rng, told = np.random.default_rng([seed, 1]), y[:TRAINING].copy()
    chosen = rng.permutation(TRAINING)[: round(wrong * TRAINING)]
    told[chosen] = (told[chosen] + rng.integers(1, 10, size=len(chosen))) % 10
    end = TRAINING + VALIDATION
    return Parts(x, y, told, slice(TRAINING, end), slice(end, end + TEST))


class Batches(keras.utils.PyDataset):
    """The training part in batches, in an order of its own each epoch, the same for each seed."""

    def __init__(self, parts, seed):
        super().__init__()
        self.parts, self.random = parts, np.random.default_rng([seed, 2])
        self.on_epoch_end()

    def __len__(self):
        return STEPS_AN_EPOCH

    def __getitem__(self, index):
        rows = self.order[BATCH * index : BATCH * (index + 1)]
        return self.parts.x[rows], self.parts.told[rows]

    def on_epoch_end(self):
        self.order = self.random.permutation(TRAINING)


class Accuracies(NamedTuple):
    """On right labels, a value for each time that was looked at, the last one after `fit`."""

    validation: list
    test: list
    evaluations: int

    def at_the_end(self):
        return self.test[-1]

    def at_the_best_epoch(self):
        """The test accuracy where the validation accuracy was highest first."""
        return self.test[int(np.argmax(self.validation))]


class Recorder(keras.callbacks.Callback):
    """Looks at the model after each epoch and after `fit`."""

    def __init__(self, parts):
        super().__init__()
        self.parts, self.validation, self.test = parts, [], []

    def on_epoch_end(self, epoch, logs=None):
        self.look()

    def look(self):
        x, y, _, validation, test = self.parts
        logits = keras.ops.convert_to_numpy(self.model.predict_on_batch(x[TRAINING:]))
        right = np.concatenate([np.zeros(TRAINING), logits.argmax(axis=1) == y[TRAINING:]])
        self.validation.append(float(right[validation].mean()))
        self.test.append(float(right[test].mean()))


class Trainable:
    """One compiled net that is trained again and again, from another start each time.

    Args:
        optimizer: A Keras optimizer, or one of keras_cool's.
        epochs: Integer, of a run.
        callbacks: List of callbacks, of all runs.
        **options: For `compile`.
    """

    def __init__(self, optimizer, epochs, callbacks: Sequence[Any] = (), **options):
        dense = keras.layers.Dense
        layers = [dense(UNITS, activation="relu"), dense(UNITS, activation="relu"), dense(10)]
        self.model = kc.inject(keras.Sequential([keras.Input((64,)), *layers]))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(optimizer, loss=loss, **options)
        optimizer.build(self.model.trainable_variables)
        self.start = [keras.ops.convert_to_numpy(v) for v in optimizer.variables]
        self.epochs, self.callbacks = epochs, callbacks

    def run(self, seed, wrong, rate=None):
        """Trains from the start that belongs to a seed, and gives the `Accuracies`."""
        keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        for variable in self.model.trainable_variables:
            shape = variable.shape
            limit = np.sqrt(6 / sum(shape)) if len(shape) == 2 else 0.0
            variable.assign(rng.uniform(-limit, limit, shape).astype("float32"))
        for variable, value in zip(self.model.optimizer.variables, self.start, strict=True):
            variable.assign(value)
        if rate is not None:
            self.model.optimizer.learning_rate = rate
        parts = load_parts(seed, wrong)
        recorder = Recorder(parts)
        self.model.fit(
            Batches(parts, seed),
            epochs=self.epochs,
            callbacks=[recorder, *self.callbacks],
            shuffle=False,  # `Batches` does; Keras' order is another one in the first run
            verbose=0,
        )
        recorder.look()
        steps = self.epochs * STEPS_AN_EPOCH
        evaluations = int(self.model.step_counts().get("gradient_evaluations", steps))
        return Accuracies(recorder.validation, recorder.test, evaluations)


def validation_accuracy(runs):
    """What settings are chosen by: at the end, the mean over the seeds."""
    return np.mean([run.validation[-1] for run in runs])


def mean_and_spread(values):
    """In per cent: the mean over the seeds, and the lowest and the highest."""
    low, mean, high = (100 * f(values) for f in (np.min, np.mean, np.max))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"
