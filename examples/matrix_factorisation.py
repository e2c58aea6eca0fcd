"""Factorises implicit feedback, who took what, with the gradient in closed form.

    KERAS_BACKEND=jax python examples/matrix_factorisation.py
    KERAS_BACKEND=torch python examples/matrix_factorisation.py --ratings ratings.csv --rank 32

Each user and each item has a vector, and the product of two says how likely the user takes the item
(logistic factorisation). A step reads the rows of some users, of the items that they took and of
`--negatives` items drawn at random. `closed_form_gradient` gives the gradient by these rows, and
`LazyAdam` updates them alone. It is compared with automatic differentiation before training.

A part of what each user took is held out. Recall@10 is how much of it is among the ten items that
are recommended, in the mean over the users. It stands beside that of the most popular items and
that of alternating least squares in NumPy. The data are made, of known rank, or the first two
columns of a CSV file with a header: user, item.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program.command_line import count, parser_of, positive, seed
from program.errors import UserError, backend_required

with backend_required("matrix_factorisation.py"):
    import keras
    from keras import ops

    import keras_cool as kc

TOP, HELD_OUT = 10, 0.2


class Factorisation(kc.Model):
    """Vectors of users and items; the output is the logit that a user takes an item."""

    def __init__(self, users, items, rank):
        super().__init__()
        self.users = keras.layers.Embedding(users, rank, "normal", name="users")
        self.items = keras.layers.Embedding(items, rank, "normal", name="items")
        self.users.build()
        self.items.build()

    def call(self, x):
        return ops.einsum("bd,bkd->bk", self.users(x[0]), self.items(x[1]))

    def closed_form_gradient(self, x, y, sample_weight):
        u, v = self.users(x[0]), self.items(x[1])
        scores = ops.einsum("bd,bkd->bk", u, v)
        share = 1 / ops.cast(ops.size(scores), scores.dtype)
        loss = share * ops.sum(ops.softplus(scores) - y * scores)
        error = share * (ops.sigmoid(scores) - y)
        by_users = ops.einsum("bk,bkd->bd", error, v)
        by_items = ops.einsum("bk,bd->bkd", error, u)
        return loss, [
            kc.RowSparse(x[0], by_users, self.users.embeddings.shape),
            kc.RowSparse(x[1], by_items, self.items.embeddings.shape),
        ]


class Feedback(NamedTuple):
    """Who took what: pairs to train on, pairs held out, and how many users and items there are."""

    train: np.ndarray  # of shape (pairs, 2): user, item
    test: np.ndarray
    users: int
    items: int

    def taken(self):
        """A matrix of users and items, true where a pair is trained on."""
        taken = np.zeros((self.users, self.items), bool)
        taken[tuple(self.train.T)] = True
        return taken


def made(rng, users=800, items=300, rank=6, each=25):
    """Each user takes items with the probabilities that vectors of this rank give."""
    scores = rng.normal(size=(users, rank)) @ rng.normal(size=(rank, items))
    scores += rng.normal(size=items)  # some are popular
    chosen = np.argsort(-scores - rng.gumbel(size=scores.shape), axis=1)[:, :each]
    return np.stack([np.repeat(np.arange(users), each), chosen.ravel()], axis=1)


def read(path):
    """The pairs of a CSV file as numbers; names are numbered in their order."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--ratings {path}: {error}") from error
    if not rows or any(len(row) < 2 for row in rows):
        raise UserError(f"--ratings {path} has to have a header, and a user and an item a line")
    columns = zip(*(row[:2] for row in rows), strict=True)
    numbered = [np.unique(column, return_inverse=True)[1] for column in columns]
    return np.unique(np.stack(numbered, axis=1), axis=0)


def split(pairs, rng):
    """Holds a part of the pairs out."""
    users, items = pairs.max(axis=0) + 1
    is_test = rng.random(len(pairs)) < HELD_OUT
    return Feedback(pairs[~is_test], pairs[is_test], int(users), int(items))


def recall(scores, feedback):
    """The mean over the users of the part of the held-out items among the ten with the highest
    scores that were not trained on."""
    scores = np.where(feedback.taken(), -np.inf, scores)
    best = np.argsort(-scores, axis=1)[:, :TOP]
    is_best = np.zeros(scores.shape, bool)
    np.put_along_axis(is_best, best, True, axis=1)
    held_out = np.zeros(scores.shape, bool)
    held_out[tuple(feedback.test.T)] = True
    wanted = held_out.sum(axis=1)
    return float(((is_best & held_out).sum(axis=1) / np.maximum(wanted, 1))[wanted > 0].mean())


def least_squares(feedback, rank, rng, rounds=10, confidence=10.0, penalty=1.0):
    """Scores by weighted alternating least squares (Hu, Koren and Volinsky, 2008, equation 4)."""
    taken = feedback.taken().astype("float64")
    users, items = (rng.normal(size=(n, rank)) * 0.1 for n in taken.shape)
    for _ in range(rounds):
        users = _solved(taken, items, confidence, penalty)
        items = _solved(taken.T, users, confidence, penalty)
    return users @ items.T


def _solved(taken, others, confidence, penalty):
    gram = others.T @ others + penalty * np.eye(others.shape[1])
    matrices = gram + confidence * np.einsum("ui,ij,ik->ujk", taken, others, others, optimize=True)
    right = (1 + confidence) * taken @ others
    return np.linalg.solve(matrices, right[..., None])[..., 0]


def batches(feedback, negatives, rng):
    """What `fit` takes: users, an item that each took and others at random, and which is which."""
    users, items = feedback.train.astype("int32").T
    others = rng.integers(0, feedback.items, (len(users), negatives)).astype("int32")
    y = np.zeros((len(users), 1 + negatives), "float32")
    y[:, 0] = 1
    return (users, np.concatenate([items[:, None], others], axis=1)), y


def train(feedback, arguments, rng):
    """Trains a model; gives the scores of all pairs."""
    keras.utils.set_random_seed(arguments.seed)
    model = Factorisation(feedback.users, feedback.items, arguments.rank)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(kc.optimizers.LazyAdam(arguments.rate), loss)
    x, y = batches(feedback, arguments.negatives, rng)
    difference = kc.check_gradient(model, ((x[0][:64], x[1][:64]), y[:64]))
    print(f"closed form and automatic differentiation differ by {difference:.0e} at most")
    for _ in range(arguments.epochs):
        x, y = batches(feedback, arguments.negatives, rng)
        model.fit(x, y, batch_size=512, verbose=0)
    users, items = model.get_weights()
    return users @ items.T


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix."""
    parser = parser_of("matrix_factorisation.py", __doc__)
    add = parser.add_argument
    add("--ratings", metavar="FILE.csv", type=Path, help="default: data are made")
    add("--rank", metavar="N", type=count, default=8, help="of the vectors; default: 8")
    add("--negatives", metavar="N", type=count, default=5, help="a pair; default: 5")
    add("--rate", metavar="R", type=positive, default=0.02, help="of LazyAdam; default: 0.02")
    add("--epochs", metavar="N", type=count, default=20, help="default: 20")
    add("--seed", metavar="S", type=seed, default=0, help="default: 0")
    arguments = parser.parse_args(argv)
    rng = np.random.default_rng(arguments.seed)
    try:
        feedback = split(read(arguments.ratings) if arguments.ratings else made(rng), rng)
    except UserError as error:
        parser.error(str(error))
    popular = np.bincount(feedback.train[:, 1], minlength=feedback.items)
    scores = {
        "the most popular items": np.broadcast_to(popular, (feedback.users, feedback.items)),
        "alternating least squares": least_squares(feedback, arguments.rank, rng),
        "this factorisation": train(feedback, arguments, rng),
    }
    print(f"{len(feedback.train)} pairs, {feedback.users} users, {feedback.items} items")
    for name, values in scores.items():
        print(f"recall@{TOP} of {name}: {recall(values, feedback):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
