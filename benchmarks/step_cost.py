"""What a step costs: the mixin against `keras.Model`, Heun against two plain steps.

Run it as `KERAS_BACKEND=jax python benchmarks/step_cost.py`; `--output FILE` also writes the table.
"""

import argparse
import pathlib

import keras
import numpy as np
from _timing import in_turn, machine, milliseconds, ratio, seconds_a_step, settings

import keras_cool as kc


def dense_net(cls):
    """5 million parameters in dense layers: a step is bound by memory."""
    inputs = keras.Input((784,))
    h = inputs
    for _ in range(3):
        h = keras.layers.Dense(1344, activation="relu")(h)
    return cls(inputs, keras.layers.Dense(10)(h))


def convolutional_net(cls):
    """Convolutions with batch normalisation and dropout: a step is bound by arithmetic."""
    inputs = keras.Input((28, 28, 1))
    h = inputs
    for filters in (32, 64):
        h = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(h)
        h = keras.layers.MaxPooling2D()(keras.layers.BatchNormalization()(h))
    h = keras.layers.Dropout(0.3, seed=1)(keras.layers.Flatten()(h))
    return cls(inputs, keras.layers.Dense(10)(h))


NETS = {"dense": (dense_net, (784,)), "convolutional": (convolutional_net, (28, 28, 1))}


class OwnStep(kc.Model):
    """The plain step computed by keras_cool, where `kc.Model` leaves it to Keras."""

    def multi_gradient_step(self, x, y, sample_weight):
        return super().multi_gradient_step(x, y, sample_weight)


SIDES = {
    "sgd, keras.Model": (keras.Model, lambda: keras.optimizers.SGD(1e-3)),
    "sgd, kc.Model": (kc.Model, lambda: keras.optimizers.SGD(1e-3)),
    "sgd, a step of one's own": (OwnStep, lambda: keras.optimizers.SGD(1e-3)),
    "Heun(1e-3)": (kc.Model, lambda: kc.optimizers.Heun(1e-3)),
    "adam, keras.Model": (keras.Model, lambda: keras.optimizers.Adam(1e-3)),
    "adam, kc.Model": (kc.Model, lambda: keras.optimizers.Adam(1e-3)),
    'Heun("adam")': (kc.Model, lambda: kc.optimizers.Heun("adam")),
}

# What is compared: side, reference, gradient evaluations of the one over those of the other.
ROWS = [
    ("sgd, kc.Model", "sgd, keras.Model", 1, "1.02"),
    ("adam, kc.Model", "adam, keras.Model", 1, "1.02"),
    ("sgd, a step of one's own", "sgd, keras.Model", 1, ""),
    ("Heun(1e-3)", "sgd, keras.Model", 2, "1.00"),
    ('Heun("adam")', "adam, keras.Model", 2, "1.00"),
]


def measure(net, batch_size, steps, rounds):
    """Gives the rows of the table for one net."""
    make, shape = NETS[net]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch_size * steps, *shape)).astype("float32")
    y = rng.integers(0, 10, size=len(x))
    sides = {}
    for name, (cls, optimizer) in SIDES.items():
        keras.utils.set_random_seed(0)
        model = make(cls)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(), loss=loss)
        sides[name] = lambda model=model: seconds_a_step(model, x, y, batch_size)
    seconds = in_turn(sides, rounds)
    for name, reference, factor, target in ROWS:
        median, low, high = ratio(seconds, name, reference, factor)
        against = reference if factor == 1 else f"{factor} x {reference}"
        yield (
            f"| {net} | {name} | {against} | {milliseconds(seconds[name]):.2f} | "
            f"{median:.2f} | {low:.2f} to {high:.2f} | {target} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30, help="steps a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=pathlib.Path, help="write the table to this file too")
    arguments = parser.parse_args()
    options = f"--batch-size {arguments.batch_size} --steps {arguments.steps} "
    options += f"--rounds {arguments.rounds}"
    lines = [
        f"{machine()}",
        "",
        f"`{settings()}python benchmarks/step_cost.py {options}`",
        "",
        "| net | step | against | ms | ratio | quartiles | to reach |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for net in NETS:
        lines += measure(net, arguments.batch_size, arguments.steps, arguments.rounds)
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
