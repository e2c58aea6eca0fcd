"""What word2vec learns from: words and their neighbours in random windows, words at random beside
them, in batches that a thread makes ahead of the step."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from words.corpus import Corpus

BLOCK = 50_000  # words of the text whose pairs are made at once, and shuffled
TABLE = 1 << 20  # entries of the table of negatives, at least


class Sampling(NamedTuple):
    """How words and neighbours are drawn from a text."""

    model: str  # "skip-gram", a pair of two words, or "cbow", a word and all of its neighbours
    window: int
    negatives: int
    threshold: float  # of the sub-sampling of frequent words; 0: none
    batch: int


def kept_share(counts: np.ndarray, threshold: float) -> np.ndarray:
    """The probability with which each word stays in the text, as in the program word2vec.

    Mikolov and others, 2013, "Distributed Representations of Words and Phrases and their
    Compositionality", has sqrt(t / f) in equation 5, the program sqrt(t / f) + t / f.
    """
    if not threshold:
        return np.ones(len(counts))
    ratio = threshold * counts.sum() / counts
    return np.minimum(1, np.sqrt(ratio) + ratio)


def negative_table(counts: np.ndarray) -> np.ndarray:
    """Words, each as often as its count to the power of 3/4 says; a random entry is a negative."""
    edges = np.cumsum(counts**0.75)
    size = max(TABLE, 16 * len(counts))
    middles = (np.arange(size) + 0.5) / size * edges[-1]
    return np.searchsorted(edges, middles).astype("int32")


def neighbours(
    ids: np.ndarray, sentences: np.ndarray, window: int, rng: np.random.Generator
) -> np.ndarray:
    """The words around each word in its sentence, shape `(words, 2 * window)`, and -1 for none.

    How far a word sees is drawn for each, from 1 to `window`.
    """
    count = len(ids)
    reach = rng.integers(1, window + 1, count)
    around = np.full((count, 2 * window), -1, "int32")
    for column, offset in enumerate([*range(-window, 0), *range(1, window + 1)]):
        here = np.arange(max(0, -offset), count - max(0, offset))
        there = here + offset
        seen = (reach[here] >= abs(offset)) & (sentences[here] == sentences[there])
        around[here[seen], column] = ids[there[seen]]
    return around


def drawn(
    corpus: Corpus, sampling: Sampling, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Goes through the text once, a block at a time: words, and what each is predicted from.

    The latter has the shape `(words, 1)` for skip-gram and `(words, 2 * window)` for CBOW.
    """
    share = kept_share(corpus.counts, sampling.threshold)
    for start in range(0, len(corpus.ids), BLOCK):
        ids, sentences = (a[start : start + BLOCK] for a in (corpus.ids, corpus.sentences))
        kept = rng.random(len(ids)) < share[ids]
        ids, sentences = ids[kept], sentences[kept]
        around = neighbours(ids, sentences, sampling.window, rng)
        if sampling.model == "cbow":
            some = (around >= 0).any(axis=1)
            yield around[some], ids[some]
        else:
            words, columns = np.nonzero(around >= 0)
            yield around[words, columns][:, None], ids[words]


def count_pairs(corpus: Corpus, sampling: Sampling, rng: np.random.Generator) -> int:
    """How many words to predict once through the text has, by one draw."""
    return sum(len(words) for _, words in drawn(corpus, sampling, rng))


def batches(
    corpus: Corpus, sampling: Sampling, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Goes through the text without end, in batches of one size, shuffled within a block.

    A batch is what words are predicted from, as `drawn` gives it, and these words with others at
    random, shape `(batch, 1 + negatives)`.
    """
    table, size = negative_table(corpus.counts), sampling.batch
    width = 2 * sampling.window if sampling.model == "cbow" else 1
    around, words = np.empty((0, width), "int32"), np.empty(0, "int32")
    while True:
        for more_around, more_words in drawn(corpus, sampling, rng):
            order = rng.permutation(len(more_words))
            around = np.concatenate([around, more_around[order]])
            words = np.concatenate([words, more_words[order]])
            whole = len(words) // size * size
            others = table[rng.integers(0, len(table), (whole, sampling.negatives))]
            targets = np.concatenate([words[:whole, None], others], axis=1)
            for start in range(0, whole, size):
                yield around[start : start + size], targets[start : start + size]
            around, words = around[whole:], words[whole:]


@contextlib.contextmanager
def made_ahead(items: Iterator, depth: int) -> Iterator[Iterator]:
    """Gives the same items, made in a thread, `depth` of them ahead; it ends with the block."""
    ready: queue.Queue = queue.Queue(depth)
    ended = threading.Event()

    def make() -> None:
        try:
            for item in items:
                ready.put((item, None))
                if ended.is_set():
                    return
            ready.put(None)
        except BaseException as error:  # raised where the items are used
            ready.put((None, error))

    def use() -> Iterator:
        while (made := ready.get()) is not None:
            item, error = made
            if error is not None:
                raise error
            yield item

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        yield use()
    finally:
        ended.set()
        while thread.is_alive():  # it may wait for a free place
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.1)
        thread.join()
