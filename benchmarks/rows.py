"""What row-sparse and closed-form gradients of embedding tables are worth: pairs a second in `fit`.

Skip-gram with 5 negatives, two tables, batch 1,024, SGD. `keras.Model` as it is, with dense
gradients on JAX and PyTorch, is timed beside `row_sparse=True` and a `closed_form_gradient`, in
turn in one process; then both with tables of other sizes. gensim's Word2Vec, if it is installed,
trains on a made text; its pairs are the 6 that a word has in the mean of windows of 1 to 5 words on
both sides.

    KERAS_BACKEND=jax python benchmarks/rows.py --output benchmarks/results/rows-jax.md

On JAX and TensorFlow 20 steps are compiled into one call (`steps_per_execution`), for all sides. On
PyTorch set OMP_NUM_THREADS=1: with more, its loops over rows wait for each other. `--quick` shows
that it runs.
"""

import argparse
import pathlib
import statistics
import time

import keras
import numpy as np
from keras import ops

import keras_cool as kc
from harness.timing import in_turn, machine, settings

WIDTH, BATCH, NEGATIVES = 128, 1024, 5
STEPS_A_CALL = 1 if keras.backend.backend() == "torch" else 20


class Tables:
    """Two tables, and the scores of a word with its contexts."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.word, self.context = (keras.layers.Embedding(rows, WIDTH, name=n) for n in "wc")
        self.word.build()
        self.context.build()

    def call(self, x):
        return scores(self.word(x[0]), self.context(x[1]))


def scores(word, contexts):
    return ops.sum(ops.expand_dims(word, 1) * contexts, axis=-1)


class Dense(Tables, keras.Model):
    """Keras' own step."""


class RowSparse(Tables, kc.Model):
    """Automatic differentiation by the rows."""


class ClosedForm(Tables, kc.Model):
    """The gradient by the rows, written down."""

    def closed_form_gradient(self, x, y, sample_weight):
        word, contexts = self.word(x[0]), self.context(x[1])
        score = scores(word, contexts)
        count = ops.cast(ops.size(score), score.dtype)
        loss = ops.sum(ops.softplus(score) - y * score) / count
        error = ops.expand_dims((ops.sigmoid(score) - y) / count, -1)
        shape = (self.rows, WIDTH)
        by_word = kc.RowSparse(x[0], ops.sum(error * contexts, axis=1), shape)
        return loss, [by_word, kc.RowSparse(x[1], error * ops.expand_dims(word, 1), shape)]


SIDES = {
    "`keras.Model`, dense": (Dense, {}),
    "`row_sparse=True`": (RowSparse, {"row_sparse": True}),
    "`closed_form_gradient`": (ClosedForm, {}),
}


def pairs(rows, count, rng):
    """Words as frequent as in a text, with a true context and others drawn at random."""
    frequency = np.cumsum(1 / np.arange(1, rows + 1))
    shape = (count, NEGATIVES + 2)
    drawn = np.searchsorted(frequency / frequency[-1], rng.random(shape)).astype("int32")
    y = np.zeros((count, NEGATIVES + 1), "float32")
    y[:, 0] = 1
    return (drawn[:, 0], drawn[:, 1:]), y


def side(name, rows, steps):
    """A function that trains on as many steps, and returns the seconds of a pair."""
    model_class, options = SIDES[name]
    keras.utils.set_random_seed(0)
    model = model_class(rows)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, steps_per_execution=STEPS_A_CALL, **options)
    x, y = pairs(rows, steps * BATCH, np.random.default_rng(0))

    def run():
        start = time.perf_counter()
        model.fit(x, y, BATCH, verbose=0, shuffle=False)
        return (time.perf_counter() - start) / (steps * BATCH)

    return run


def table(rows, steps, rounds):
    """Rows of pairs a second, and of the ratio to Keras' own `fit`."""
    sides = {name: side(name, rows, steps[name]) for name in SIDES}
    seconds = {name: statistics.median(s) for name, s in in_turn(sides, rounds).items()}
    slowest = next(iter(seconds.values()))
    for name, value in seconds.items():
        yield f"| {name} | {1e-3 / value:.0f} k | {slowest / value:.1f} |"


def sizes(all_rows, steps, rounds):
    """Rows of microseconds a pair at other sizes of the tables, in turn."""
    for name in list(SIDES)[1:]:
        sides = {str(rows): side(name, rows, steps[name]) for rows in all_rows}
        seconds = [statistics.median(s) for s in in_turn(sides, rounds).values()]
        values = " | ".join(f"{1e6 * s:.2f}" for s in seconds)
        yield f"| {name} | {values} | {max(seconds) / min(seconds):.2f} |"


def gensim_pairs(rows, words, workers):
    """gensim's pairs a second on a made text, or `None`: it is not installed."""
    try:
        from gensim.models import Word2Vec
    except ImportError:
        return None
    (drawn, _), _ = pairs(rows, words, np.random.default_rng(0))
    text = [[str(word) for word in line] for line in drawn.reshape(-1, 1000)]
    window = 5
    model = Word2Vec(
        vector_size=WIDTH,
        window=window,
        negative=NEGATIVES,
        sg=1,
        sample=0,
        workers=workers,
        min_count=1,
    )
    model.build_vocab(text)
    start = time.perf_counter()
    model.train(text, total_examples=len(text), epochs=1)
    return words * (1 + window) / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rows, scale = (2000, 1) if options.quick else (options.rows, 5)
    steps = dict(zip(SIDES, (20, 20 * scale, 20 * scale), strict=True))
    all_rows = [rows // 10, rows] if options.quick else [rows // 10, rows, rows * 10]
    setting = (
        f"{machine()}. Skip-gram, {NEGATIVES} negatives, two tables of {rows} x {WIDTH}, batch "
        f"{BATCH}, SGD, `steps_per_execution={STEPS_A_CALL}`. Medians of {options.rounds} rounds."
    )
    lines = [
        "# Rows of embedding tables",
        "",
        f"`{settings()}python benchmarks/rows.py`",
        "",
        setting,
        "",
        "| | pairs a second | times Keras |",
        "| --- | --- | --- |",
        *table(rows, steps, options.rounds),
    ]
    workers = 2
    peer = gensim_pairs(rows, 20_000 if options.quick else 1_000_000, workers)
    if peer is not None:
        lines.append(f"| gensim, {workers} workers | {1e-3 * peer:.0f} k | |")
    lines += [
        "",
        "| microseconds a pair, by rows of a table | "
        + " | ".join(map(str, all_rows))
        + " | worst |",
        "| --- |" + " --- |" * (len(all_rows) + 1),
        *sizes(all_rows, steps, options.rounds),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
