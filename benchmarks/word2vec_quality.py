"""Whether `examples/word2vec.py` learns vectors as good as gensim's, on a text with planted groups.

Each sentence of a made text is about a group: some of its words are of that group, some of any
group, and most are common words, as frequent as in a text. A good model finds the groups. Purity:
of as many clusters by k-means as there are groups, the share of the words that are of the largest
group of their cluster. Nearest: the share of the nine nearest words that are of the same group. The
example and gensim's Word2Vec, with one worker, have the same settings. A seed decides the text, the
first vectors and what is drawn.

gensim differs in two things. Its first vectors are twice as large, and in CBOW it adds the whole
error to each neighbour, where the gradient divides it by their number. "As gensim" is the example
with both changed. All are compared at one rate, and each at the best of some rates on a seed of its
own.

    KERAS_BACKEND=jax python benchmarks/word2vec_quality.py \
        --output benchmarks/results/word2vec_quality-jax.md

gensim is left out where it is not installed. `--quick` shows that the script runs.
"""

import argparse
import contextlib
import io
import pathlib
import sys
import unittest.mock
from functools import partial
from importlib.util import find_spec

import numpy as np
from keras import ops
from sklearn.cluster import KMeans

from harness.timing import machine, settings

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
import word2vec

from words import corpus, vectors

GROUPS, EACH, COMMON = 20, 10, 1000
LENGTH, OF_GROUP, OF_ANY = 12, 0.12, 0.2  # of a sentence: words, and the shares of two kinds
SIZE, WINDOW, NEGATIVES, RATE, SAMPLE = 50, 5, 5, 0.025, 1e-3
RATES, TUNING_SEED = (0.025, 0.05, 0.1, 0.15, 0.2), 1001


def planted(sentences, rng):
    """The text, and the group of each of its words of groups, by the word."""
    names = [[f"{letters(g)}{letters(i)}" for i in range(EACH)] for g in range(GROUPS)]
    common = [f"z{letters(i)}" for i in range(COMMON)]
    frequency = 1 / np.arange(1, COMMON + 1)
    shape = (sentences, LENGTH)
    kind = rng.random(shape)
    topic = np.repeat(rng.integers(0, GROUPS, (sentences, 1)), LENGTH, axis=1)
    topic = np.where(kind < OF_GROUP, topic, rng.integers(0, GROUPS, shape))
    which = rng.integers(0, EACH, shape)
    filler = rng.choice(COMMON, shape, p=frequency / frequency.sum())
    lines = [
        [
            names[topic[s, i]][which[s, i]]
            if kind[s, i] < OF_GROUP + OF_ANY
            else common[filler[s, i]]
            for i in range(LENGTH)
        ]
        for s in range(sentences)
    ]
    return lines, {word: g for g, group in enumerate(names) for word in group}


def letters(number):
    """Two or three letters for a number."""
    return "".join("bcdfghjklmnpqrstvwxy"[number // 20**i % 20] for i in (2, 1, 0))


def measured(vocabulary, table, group_of):
    """Purity, and the share of the nearest words that are of the same group."""
    chosen = [i for i, word in enumerate(vocabulary) if word in group_of]
    group = np.array([group_of[vocabulary[i]] for i in chosen])
    directions = vectors.unit(table[chosen])
    clusters = KMeans(GROUPS, n_init=10, random_state=0).fit_predict(directions)
    largest = sum(np.bincount(group[clusters == c]).max() for c in np.unique(clusters))
    near = [group[vectors.nearest(directions, i, EACH - 1)] == group[i] for i in range(len(group))]
    return largest / len(group), float(np.mean(near))


class AsGensim(word2vec.Word2Vec):
    """With gensim's first vectors, and the error of CBOW for each neighbour undivided."""

    def __init__(self, words, size):
        super().__init__(words, size)
        self.vectors.embeddings.assign(2 * self.vectors.embeddings.value)

    def closed_form_gradient(self, x, y, sample_weight):
        loss, (by_vectors, by_targets) = super().closed_form_gradient(x, y, sample_weight)
        share = ops.reshape(word2vec.shares(x[0]), (-1, 1))
        undivided = by_vectors.values / ops.where(share > 0, share, 1.0)
        return loss, [by_vectors.with_values(undivided), by_targets]


def example(lines, model, rate, seed, epochs, kind=word2vec.Word2Vec):
    """Vocabulary and vectors of the example."""
    text = corpus.numbered(".\n".join(map(" ".join, lines)), 1)
    options = f"--model={model} --size={SIZE} --window={WINDOW} --negatives={NEGATIVES} "
    options += f"--rate={rate} --sample={SAMPLE} --epochs={epochs} --seed={seed}"
    _, arguments = word2vec.parse(options.split())
    silent = contextlib.redirect_stdout(io.StringIO())
    with silent, unittest.mock.patch.object(word2vec, "Word2Vec", kind):
        return text.vocabulary, word2vec.train(text, arguments)


def gensim(lines, model, rate, seed, epochs):
    """The same of gensim."""
    from gensim.models import Word2Vec

    trained = Word2Vec(
        lines,
        sg=int(model == "skip-gram"),
        vector_size=SIZE,
        window=WINDOW,
        negative=NEGATIVES,
        alpha=rate,
        min_alpha=rate * word2vec.LOWEST,
        sample=SAMPLE,
        min_count=1,
        workers=1,
        epochs=epochs,
        seed=seed,
    )
    return trained.wv.index_to_key, trained.wv.vectors


SIDES = {"the example": example, "as gensim": partial(example, kind=AsGensim), "gensim": gensim}
if find_spec("gensim") is None:
    del SIDES["gensim"]


def compare(model, seeds, sentences, epochs, rates=(RATE,)):
    """Rows of a table: the mean of each measure, and its values by seed."""

    def found(name, rate, seed):
        lines, group_of = planted(sentences, np.random.default_rng(seed))
        return measured(*SIDES[name](lines, model, rate, seed, epochs), group_of)

    for name in SIDES:
        rate = rates[0]
        if len(rates) > 1:
            rate = max(rates, key=lambda r: found(name, r, TUNING_SEED)[1])
        values = [found(name, rate, seed) for seed in seeds]
        cells = [
            f"{np.mean(of_seeds):.3f} ({', '.join(f'{v:.3f}' for v in of_seeds)})"
            for of_seeds in zip(*values, strict=True)
        ]
        row = f"| {model}, {name} | {rate} | {' | '.join(cells)} |"
        print(row, flush=True)
        yield row


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--sentences", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="one seed, a short text")
    arguments = parser.parse_args()
    seeds, sentences, epochs = range(arguments.seeds), arguments.sentences, arguments.epochs
    if arguments.quick:
        seeds, sentences, epochs = range(1), 2000, 1
    version = f", gensim {__import__('gensim').__version__}" if "gensim" in SIDES else ""
    note = (
        f"{GROUPS} groups of {EACH} words, {COMMON} common words, {sentences} sentences of "
        f"{LENGTH} words: {OF_GROUP:.0%} of the words are of the sentence's group, {OF_ANY:.0%} of "
        f"any. {epochs} epochs, vectors of {SIZE}, windows of up to {WINDOW}, {NEGATIVES} "
        f"negatives, sub-sampling above {SAMPLE}. A cell is the mean of {len(seeds)} seeds, and "
        f"each; by chance nearest is {(EACH - 1) / (GROUPS * EACH - 1):.3f}. In the second half "
        f"the rate is the best of {', '.join(map(str, RATES))} on another seed."
    )
    lines = [
        "# word2vec beside gensim",
        "",
        f"`{settings()}python benchmarks/word2vec_quality.py`",
        "",
        f"{machine()}{version}. {note}",
        "",
        "| | rate | purity | nearest |",
        "| --- | --- | --- | --- |",
    ]
    for rates in ((RATE,), RATES):
        for model in ("skip-gram", "cbow"):
            lines += compare(model, seeds, sentences, epochs, rates)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
