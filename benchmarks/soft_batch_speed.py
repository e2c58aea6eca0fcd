"""What a soft batch costs: a micro-batch against a plain step, Keras' accumulation beside it; and
what a loss over the whole batch costs besides.

Run it as `KERAS_BACKEND=jax python benchmarks/soft_batch_speed.py`; `--output FILE` also writes the
table.
"""

import argparse
import pathlib

import keras
import numpy as np

import keras_cool as kc
from harness.timing import in_turn, machine, milliseconds, ratio, seconds_a_step, settings

BATCH, STEPS = 16, 4


def dense_net(cls):
    """5 million parameters in dense layers: a step is bound by memory."""
    inputs = keras.Input((784,))
    h = inputs
    for _ in range(3):
        h = keras.layers.Dense(1344, activation="relu")(h)
    return cls(inputs, keras.layers.Dense(10)(h))


def embedding_net(cls):
    """20 million parameters, nearly all in an embedding, of which a batch reads 320 rows."""
    inputs = keras.Input((20,), dtype="int32")
    h = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(155_000, 128)(inputs))
    h = keras.layers.Dense(256, activation="relu")(h)
    return cls(inputs, keras.layers.Dense(10)(h))


def pictures(rng, samples):
    return rng.normal(size=(samples, 784)).astype("float32")


def texts(rng, samples):
    return rng.integers(0, 155_000, size=(samples, 20))


NETS = {"dense": (dense_net, pictures), "embedding": (embedding_net, texts)}


def adam(**options):
    return keras.optimizers.Adam(1e-3, **options)


# The model's class, the optimizer, the batch of `fit` and what `compile` is told besides.
SIDES = {
    "plain": (keras.Model, adam, BATCH, {}),
    "Keras' accumulation": (
        keras.Model,
        lambda: adam(gradient_accumulation_steps=STEPS),
        BATCH,
        {},
    ),
    "Accumulate": (keras.Model, lambda: kc.optimizers.Accumulate(adam(), STEPS), BATCH, {}),
    "Accumulate, mixin": (kc.Model, lambda: kc.optimizers.Accumulate(adam(), STEPS), BATCH, {}),
    "microbatch_size": (kc.Model, adam, BATCH * STEPS, {"microbatch_size": BATCH}),
}

# What is compared with what, and the ratio to reach.
ROWS = [
    ("Keras' accumulation", "plain", ""),
    ("Accumulate, mixin", "plain", "1.00"),
    ("Accumulate, mixin", "Keras' accumulation", "0.33 on JAX"),
    ("Accumulate", "plain", ""),
    ("Accumulate", "Keras' accumulation", "1.00, less on JAX"),
    ("microbatch_size", "plain", "1.00"),
]


def measure(net, steps, rounds):
    """Gives the rows of the table for one net; times are those of a micro-batch."""
    make, inputs = NETS[net]
    rng = np.random.default_rng(0)
    x = inputs(rng, BATCH * steps)
    y = rng.integers(0, 10, size=len(x))
    sides = {}
    for name, (cls, optimizer, batch_size, options) in SIDES.items():
        keras.utils.set_random_seed(0)
        model = make(cls)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(), loss=loss, **options)

        def seconds(model=model, batch_size=batch_size):
            return seconds_a_step(model, x, y, batch_size) * BATCH / batch_size

        sides[name] = seconds
    seconds = in_turn(sides, rounds)
    for name, reference, target in ROWS:
        median, low, high = ratio(seconds, name, reference)
        yield (
            f"| {net} | {name} | {reference} | {milliseconds(seconds[name]):.2f} | "
            f"{median:.2f} | {low:.2f} to {high:.2f} | {target} |"
        )


def measure_whole_batch_loss(rounds, batch=512, size=64):
    """Gives the row of `whole_batch_loss`, of a net that is bound by arithmetic: one forward pass
    more. The loss is the same, one that would split."""
    rng = np.random.default_rng(0)
    x, y = pictures(rng, 2 * batch), rng.integers(0, 10, 2 * batch)
    name, reference = "microbatch_size, whole_batch_loss", "microbatch_size"
    sides = {}
    for side, options in {name: {"whole_batch_loss": True}, reference: {}}.items():
        keras.utils.set_random_seed(0)
        model = dense_net(kc.Model)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(adam(), loss=loss, microbatch_size=size, **options)
        sides[side] = lambda model=model: seconds_a_step(model, x, y, batch) * size / batch
    seconds = in_turn(sides, rounds)
    median, low, high = ratio(seconds, name, reference)
    yield (
        f"| dense, {batch} as {batch // size} x {size} | {name} | {reference} | "
        f"{milliseconds(seconds[name]):.2f} | {median:.2f} | {low:.2f} to {high:.2f} | 1.40 |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=32, help="micro-batches a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--net", choices=NETS, help="one net instead of both")
    parser.add_argument("--output", type=pathlib.Path, help="write the table to this file too")
    arguments = parser.parse_args()
    options = f"--steps {arguments.steps} --rounds {arguments.rounds}"
    lines = [
        machine(),
        "",
        f"`{settings()}python benchmarks/soft_batch_speed.py {options}`",
        "",
        "| net | a micro-batch | against | ms | ratio | quartiles | to reach |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for net in [arguments.net] if arguments.net else NETS:
        lines += measure(net, arguments.steps, arguments.rounds)
    lines += measure_whole_batch_loss(arguments.rounds)
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
