"""Learns word vectors from a text (word2vec: skip-gram and CBOW, with negative sampling).

    KERAS_BACKEND=jax python examples/word2vec.py
    KERAS_BACKEND=torch python examples/word2vec.py --text text8 --model cbow --output vectors.bin

A step reads the rows of a few words in two tables. `closed_form_gradient` gives the gradient by
these rows, and plain SGD updates them alone, at a rate that falls linearly. It is compared with
automatic differentiation before training. A thread makes the pairs ahead of the step: windows of
random width, without many of the frequent words, and words at random (negatives), each as often as
its count to the power of 3/4. On JAX and TensorFlow several steps are compiled into one call.

The text is by default that of the docstrings of NumPy, SciPy and scikit-learn as they are
installed, without code (BSD-3-Clause licence). It prints the words nearest to some, and draws them
by their two principal components. `--output` writes the vectors for other programs, such as
gensim's KeyedVectors.load_word2vec_format: in text, or in binary form if the file ends with .bin.

The gradient of CBOW is the exact one. The program word2vec and gensim do not divide it by the
number of neighbours, so a step of theirs is longer at the same rate (Irsoy and others, 2021,
"Corrected CBOW Performs as well as Skip-gram").

Reference: Mikolov and others, 2013, "Distributed Representations of Words and Phrases and their
Compositionality".
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from program.command_line import count, number, parser_of, picture, positive, seed
from program.errors import UserError, backend_required, require
from words import corpus, pairs, vectors

with backend_required("word2vec.py"):
    import keras
    from keras import ops

    import keras_cool as kc

STEPS_A_CALL = 1 if keras.backend.backend() == "torch" else 20
RATES = {"skip-gram": 0.025, "cbow": 0.1}
LOWEST = 1e-4  # the last learning rate, of the first
WORDS = ["poisson", "eigenvalues", "image", "integer", "frequency"]  # of the default text


class Word2Vec(kc.Model):
    """Predicts a word from the mean of the vectors of its neighbours; skip-gram has one of them.

    A batch is the neighbours, `(batch, width)` with -1 for none, and the word with others at random
    behind it, `(batch, 1 + negatives)`. The output is the score of each of these.
    """

    def __init__(self, words, size):
        super().__init__()
        small = keras.initializers.RandomUniform(-0.5 / size, 0.5 / size)
        self.vectors = keras.layers.Embedding(words, size, small, name="vectors")
        self.targets = keras.layers.Embedding(words, size, "zeros", name="targets")
        self.vectors.build()
        self.targets.build()

    def call(self, x):
        neighbours, words = x
        share = shares(neighbours)
        mean = ops.sum(share * self.vectors(ops.maximum(neighbours, 0)), axis=1, keepdims=True)
        return ops.sum(mean * self.targets(words), axis=2)

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        return ops.sum(counted(x[1]) * (ops.softplus(y_pred) - is_true(x[1]) * y_pred))

    def closed_form_gradient(self, x, y, sample_weight):
        neighbours, words = ops.maximum(x[0], 0), x[1]
        share, target = shares(x[0]), self.targets(words)
        mean = ops.sum(share * self.vectors(neighbours), axis=1, keepdims=True)
        scores = ops.sum(mean * target, axis=2)
        loss = self.compute_loss(x, y, scores)
        error = counted(words) * (ops.sigmoid(scores) - is_true(words))
        error = ops.expand_dims(error, 2)
        by_mean = ops.sum(error * target, axis=1, keepdims=True)
        shape = self.targets.embeddings.shape
        return loss, [
            kc.RowSparse(neighbours, share * by_mean, shape),
            kc.RowSparse(words, error * mean, shape),
        ]


def shares(neighbours):
    """What each neighbour has in the mean, `(batch, width, 1)`."""
    there = ops.cast(neighbours >= 0, "float32")
    return ops.expand_dims(there / ops.sum(there, axis=1, keepdims=True), 2)


def is_true(words):
    """1 for the word of the text, which is the first, and 0 for those at random."""
    return ops.cast(ops.arange(words.shape[1]) == 0, "float32")


def counted(words):
    """The weight of each score in the loss: 0 where a word at random is the true one."""
    other = ops.cast(words != words[:, :1], "float32")
    return (other + is_true(words)) / ops.cast(ops.shape(words)[0], "float32")


def check(negatives):
    """Compares the gradient in closed form with automatic differentiation, on 30 words."""
    rng = np.random.default_rng(0)
    model = Word2Vec(30, 8)
    model.set_weights([rng.normal(size=(30, 8)) for _ in range(2)])
    model.compile("sgd")
    neighbours = rng.integers(-1, 30, (64, 6)).astype("int32")
    neighbours[:, 0] = 0  # a word has one at least
    words = rng.integers(0, 30, (64, 1 + negatives)).astype("int32")
    return kc.check_gradient(model, ((neighbours, words),))


class Progress(keras.callbacks.Callback):
    """Prints words a second and the loss ten times in a training."""

    def __init__(self, steps, words):
        super().__init__()
        self.steps, self.words, self.tenths = steps, words, 0

    def on_train_begin(self, logs=None):
        self.step, self.start = 0, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        if 10 * done >= (self.tenths + 1) * self.steps:
            self.tenths = 10 * done // self.steps
            loss = float(logs["loss"])  # which waits for the step
            seconds = time.perf_counter() - self.start
            speed = (done - self.step) / self.steps * self.words / seconds
            line = f"{done / self.steps:5.0%}{speed:12,.0f} words a second{loss:9.3f} loss"
            print(line, flush=True)
            self.step, self.start = done, time.perf_counter()


def train(text, arguments):
    """Trains on a corpus; gives the vectors of its vocabulary."""
    keras.utils.set_random_seed(arguments.seed)
    sampling = pairs.Sampling(
        arguments.model, arguments.window, arguments.negatives, arguments.sample, arguments.batch
    )
    rng = np.random.default_rng(arguments.seed)
    once = pairs.count_pairs(text, sampling, rng)
    if once == 0:
        raise UserError("no word has a neighbour; give a longer --text or a larger --sample")
    calls = -(-arguments.epochs * once // (arguments.batch * STEPS_A_CALL))
    steps = calls * STEPS_A_CALL
    model = Word2Vec(len(text.vocabulary), arguments.size)
    # The loss is the mean over a batch, and word2vec's rate is that of a pair.
    rate = (arguments.rate or RATES[arguments.model]) * arguments.batch
    rate = keras.optimizers.schedules.PolynomialDecay(rate, steps, LOWEST * rate)
    model.compile(keras.optimizers.SGD(rate), steps_per_execution=STEPS_A_CALL)
    progress = Progress(steps, arguments.epochs * len(text.ids))
    with pairs.made_ahead(pairs.batches(text, sampling, rng), 4 * STEPS_A_CALL) as made:
        data = ((batch,) for batch in made)
        model.fit(data, steps_per_epoch=steps, shuffle=False, callbacks=[progress], verbose=0)
    return ops.convert_to_numpy(model.vectors.embeddings)


def vector_file(text: str) -> Path:
    """Reads the path of a file of vectors."""
    path = Path(text)
    if path.suffix not in (".txt", ".vec", ".bin") or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not the path of a .txt, .vec or .bin file")
    return path


not_negative = number(float, "a finite number of at least 0", lambda r: 0 <= r < np.inf)


def parse(argv):
    """Reads the command line; gives the parser too, for later errors."""
    parser = parser_of("word2vec.py", __doc__)
    add = parser.add_argument
    add("--text", metavar="FILE", type=Path, help="in UTF-8; default: docstrings, see below")
    add("--model", choices=list(RATES), default="skip-gram", help="default: skip-gram")
    add("--size", metavar="N", type=count, default=100, help="of a vector; default: 100")
    add("--window", metavar="N", type=count, default=5, help="words on each side; default: 5")
    add("--negatives", metavar="N", type=count, default=5, help="a pair; default: 5")
    add("--min-count", metavar="N", type=count, default=10, help="of a word; default: 10")
    add(
        "--sample",
        metavar="T",
        type=not_negative,
        default=1e-3,
        help="share of the text above which a word is left out at times; 0: none; default: 0.001",
    )
    add(
        "--rate",
        metavar="R",
        type=positive,
        help="of a pair; default: 0.025, and 0.1 with CBOW",
    )
    add("--batch", metavar="N", type=count, default=512, help="pairs a step; default: 512")
    add("--epochs", metavar="N", type=count, default=5, help="default: 5")
    add("--seed", metavar="S", type=seed, default=0, help="default: 0")
    add("--words", metavar="WORD", nargs="+", help="whose nearest words are shown")
    add("--output", metavar="FILE", type=vector_file, help="for the vectors: .txt, .vec or .bin")
    add(
        "--picture",
        metavar="FILE.png",
        type=picture,
        default=Path("runs", "word2vec.png"),
        help="a file that is there is replaced; default: runs/word2vec.png",
    )
    return parser, parser.parse_args(argv)


def load(arguments):
    """The corpus, and the words that are to be shown, or `None`."""
    require("matplotlib", "matplotlib")
    text = corpus.read(arguments.text) if arguments.text else corpus.docstrings(corpus.PACKAGES)
    text = corpus.numbered(text, arguments.min_count)
    names = arguments.words or (None if arguments.text else WORDS)
    if names is None:
        return text, None
    rank = {word: i for i, word in enumerate(text.vocabulary)}
    shown = [rank[name] for name in names if name in rank]
    unknown = [name for name in arguments.words or () if name not in rank]
    if unknown:
        raise UserError(
            f"--words: the text does not have {', '.join(unknown)} {arguments.min_count} times; "
            "give other words, or a smaller --min-count"
        )
    return text, shown or None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix."""
    parser, arguments = parse(argv)
    try:
        text, shown = load(arguments)
        print(f"{len(text.ids):,} words, {len(text.vocabulary):,} different ones")
        difference = check(arguments.negatives)
        print(f"closed form and automatic differentiation differ by {difference:.0e} at most")
        trained = train(text, arguments)
    except UserError as error:
        parser.error(str(error))
    groups = []
    for word in shown or vectors.far_apart(trained, 5):
        groups.append([word, *vectors.nearest(trained, word, 7)])
        first, *others = [text.vocabulary[i] for i in groups[-1]]
        print(f"{first}: {', '.join(others)}")
    path = arguments.picture
    try:
        vectors.draw(trained, text.vocabulary, groups, path)
        if path := arguments.output:
            vectors.write(path, text.vocabulary, trained)
            print(f"the vectors are {path}")
    except OSError as error:
        parser.error(f"{path}: {error}; give a place that can be written")
    print(f"the picture is {arguments.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
