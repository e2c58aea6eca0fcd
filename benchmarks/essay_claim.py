"""Whether solvers of the gradient flow train better than gradient descent: the claim of an essay.

The essay (2018) gave Keras an optimizer with Heun's method, named RK23 and RK45 as the next, and
said that they do not work well; an earlier print of it, that the training loss falls fast and
validation suffers. This trains a small dense net on scikit-learn's digits in batches of 32, with
every method, every setting of a small grid and several seeds, without and with dropout, and
compares at equal steps, at equal gradient evaluations and at equal training loss.

    KERAS_BACKEND=jax python benchmarks/essay_claim.py --output essay_claim --picture picture.png

A seed decides the weights, the order of the images, the dropout masks and which images are the
validation part. The validation part alone chooses the settings. The test part is that of
`examples/train.py`, the same in all runs. It takes about ten minutes on one core with JAX.
"""

import argparse
import math
import pathlib
import time
from typing import NamedTuple

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_cool as kc
from harness import essay_claim_report as report
from harness.essay_claim_curves import Curves
from harness.timing import machine, settings

TRAINING, VALIDATION, TEST, BATCH = 1152, 285, 360, 32
STEPS_AN_EPOCH = TRAINING // BATCH
DROPOUTS = (0.0, 0.4)
RATES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
CONTROLS = tuple(
    {"rtol": rtol, "atol": rtol / 1000, "max_step": max_step}
    for rtol in (1e-2, 1e-3)  # the second one is SciPy's default
    for max_step in (0.8, math.inf)
)


class Method(NamedTuple):
    """A method and its grid: rates, or settings of its step size control."""

    make: type
    rates: tuple = ()
    controls: tuple = ()


METHODS = {
    "SGD": Method(keras.optimizers.SGD, RATES),
    "Heun": Method(kc.optimizers.Heun, RATES),
    "RK4": Method(kc.optimizers.RK4, RATES),
    "RK23": Method(kc.optimizers.RK23, controls=CONTROLS),
    "RK45": Method(kc.optimizers.RK45, controls=CONTROLS),
    "Adam": Method(keras.optimizers.Adam, (3e-4, 1e-3, 3e-3, 1e-2)),  # for comparison
}


class Parts(NamedTuple):
    """All images and labels, and which ones each part has."""

    x: np.ndarray
    y: np.ndarray
    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def load_parts(seed):
    digits = load_digits()
    y = digits.target.astype("int32")
    rest, test = train_test_split(np.arange(len(y)), test_size=TEST, stratify=y, random_state=0)
    training, validation = train_test_split(
        rest, test_size=VALIDATION, stratify=y[rest], random_state=seed
    )
    x = digits.data.astype("float32")
    return Parts((x - x[rest].mean()) / x[rest].std(), y, training, validation, test)


def build(dropout):
    layers = [keras.Input((64,)), keras.layers.Dense(128, activation="relu")]
    layers += [keras.layers.Dropout(dropout, seed=0)] if dropout else []
    return kc.inject(keras.Sequential([*layers, keras.layers.Dense(10)]))


class Recorder(keras.callbacks.Callback):
    """Keeps the `Curves` of a run: the model at the start and after each epoch, without dropout."""

    def __init__(self, parts):
        super().__init__()
        self.parts, self.rows = parts, []

    def on_train_begin(self, logs=None):
        self.record(0)

    def on_epoch_end(self, epoch, logs=None):
        steps = (epoch + 1) * STEPS_AN_EPOCH
        self.record(int(logs.get("gradient_evaluations", steps)))

    def record(self, evaluations):
        x, y, training, validation, test = self.parts
        logits = keras.ops.convert_to_numpy(self.model.predict_on_batch(x)).astype("float64")
        with np.errstate(invalid="ignore"):  # of a run that has diverged
            logits -= logits.max(axis=1, keepdims=True)
            loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
        loss = np.where(np.isfinite(loss), loss, np.inf)
        right = logits.argmax(axis=1) == y
        means = [loss[training], loss[validation], loss[test], right[test]]
        self.rows.append([evaluations, *(values.mean() for values in means)])

    def curves(self):
        steps = STEPS_AN_EPOCH * np.arange(len(self.rows))
        return Curves(steps, *np.array(self.rows).T)


def restart(model, optimizer_start, seed):
    """Puts the model to the start that the seed draws: a compiled model serves all runs."""
    keras.utils.set_random_seed(seed)
    for variable, value in optimizer_start:
        variable.assign(value)
    for i, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([seed, 0])
        else:
            initializer = keras.initializers.GlorotUniform(100 * seed + i)
            layer.set_weights([initializer(layer.kernel.shape), np.zeros(layer.bias.shape)])


def run(method, dropout, parts, epochs):
    """Runs the grid of a method: a dictionary of settings in words and lists of `Curves`."""
    runs = {}
    for control in method.controls or ({"learning_rate": 0.1},):
        model = build(dropout)
        model.compile(
            method.make(**control) if method.controls else method.make(0.1),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.optimizer.build(model.trainable_variables)
        start = [(v, keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
        for rate in method.rates or (None,):
            words = report.in_words(control if rate is None else {"rate": rate})
            runs[words] = []
            for seed, part in enumerate(parts):
                restart(model, start, seed)
                if rate is not None:
                    model.optimizer.learning_rate = rate
                recorder = Recorder(part)
                model.fit(
                    part.x[part.training],
                    part.y[part.training],
                    batch_size=BATCH,
                    epochs=epochs,
                    verbose=0,
                    callbacks=[recorder],
                )
                runs[words].append(recorder.curves())
    return runs


def whole(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=whole, default=8, help="default: 8")
    parser.add_argument("--epochs", type=whole, default=60, help="default: 60")
    parser.add_argument("--output", type=pathlib.Path, help="write the tables to this file too")
    parser.add_argument("--picture", type=pathlib.Path, help="draw the curves into this file")
    arguments = parser.parse_args()
    parts = [load_parts(seed) for seed in range(arguments.seeds)]
    start, results = time.monotonic(), {}
    for dropout in DROPOUTS:
        results[dropout] = {}
        for name, method in METHODS.items():
            results[dropout][name] = run(method, dropout, parts, arguments.epochs)
            minutes = (time.monotonic() - start) / 60
            print(f"dropout {dropout:g}, {name}: done after {minutes:.1f} min", flush=True)
    command = (
        f"`{settings()}python benchmarks/essay_claim.py --seeds {arguments.seeds} "
        f"--epochs {arguments.epochs}`, {minutes:.0f} minutes"
    )
    text = "\n".join([machine(), "", command, "", *report.tables(results)])
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    if arguments.picture:
        from harness import essay_claim_picture

        essay_claim_picture.draw(results, arguments.picture)


if __name__ == "__main__":
    main()
