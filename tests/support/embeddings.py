"""Models of embedding tables with their gradients in closed form, and data for them."""

import keras
import numpy as np
from keras import ops

import keras_cool as kc

ROWS, WIDTH, SAMPLES = 40, 6, 44
WEIGHTS = np.random.default_rng(12).random(SAMPLES).astype("float32")


def ids(seed, *shape):
    """Rows, some more than once."""
    return np.random.default_rng(seed).integers(0, ROWS, (SAMPLES, *shape)).astype("int32")


def table(name, rows=ROWS, width=WIDTH, **options):
    layer = keras.layers.Embedding(rows, width, "normal", name=name, **options)
    layer.build()
    return layer


def dense_gradient(layer, ids, values):
    """The gradient by a whole table, from those by the rows that were read."""
    ids, values = ops.reshape(ids, (-1, 1)), ops.reshape(values, (-1, layer.output_dim))
    return ops.scatter(ids, values, tuple(layer.embeddings.shape))


def mean_of(values, sample_weight):
    """The factor of each value in the mean over all values, samples first."""
    count = ops.cast(ops.size(values), values.dtype)
    if sample_weight is None:
        return ops.ones_like(values) / count
    shape = (-1, *[1] * (len(values.shape) - 1))
    return ops.reshape(ops.cast(sample_weight, values.dtype), shape) / count


class _TwoTables:
    """What the models have in common: `make_gradient` says how a gradient by rows is returned."""

    make_gradient = staticmethod(dense_gradient)

    def __init__(self):
        super().__init__()
        self.first, self.second = table("first"), table("second")

    def vectors(self, x):
        """The rows that were read, in the dtype of the tables."""
        first, second = self.first(x[0]), self.second(x[1])
        return [ops.cast(rows, self.first.variable_dtype) for rows in (first, second)]

    def closed_form_gradient(self, x, y, sample_weight):
        loss, by_first, by_second = self.rows_gradient(x, y, sample_weight)
        return loss, [
            self.make_gradient(self.first, x[0], by_first),
            self.make_gradient(self.second, x[1], by_second),
        ]


class SkipGram(_TwoTables):
    """A word and several contexts of it, of which y says which are true."""

    loss = keras.losses.BinaryCrossentropy(from_logits=True)

    @staticmethod
    def data():
        y = np.zeros((SAMPLES, 4), "float32")
        y[:, 0] = 1
        return (ids(0), ids(1, 4)), y

    def call(self, x):
        return ops.einsum("bd,bkd->bk", self.first(x[0]), self.second(x[1]))

    def rows_gradient(self, x, y, sample_weight):
        u, v = self.vectors(x)
        scores = ops.einsum("bd,bkd->bk", u, v)
        factor = mean_of(scores, sample_weight)
        loss = ops.sum(factor * (ops.softplus(scores) - y * scores))
        error = factor * (ops.sigmoid(scores) - y)
        return loss, ops.einsum("bk,bkd->bd", error, v), ops.einsum("bk,bd->bkd", error, u)


class Cbow(_TwoTables):
    """The mean of the words around a place, and words of which y says which stands there."""

    loss = SkipGram.loss

    @staticmethod
    def data():
        return (ids(2, 5), ids(3, 4)), SkipGram.data()[1]

    def call(self, x):
        return ops.einsum("bd,bkd->bk", ops.mean(self.first(x[0]), axis=1), self.second(x[1]))

    def rows_gradient(self, x, y, sample_weight):
        u, v = self.vectors(x)
        scores = ops.einsum("bd,bkd->bk", ops.mean(u, axis=1), v)
        factor = mean_of(scores, sample_weight)
        loss = ops.sum(factor * (ops.softplus(scores) - y * scores))
        error = factor * (ops.sigmoid(scores) - y)
        by_mean = ops.einsum("bk,bkd->bd", error, v) / 5
        by_words = ops.einsum("bk,bd->bkd", error, ops.mean(u, axis=1))
        return loss, ops.repeat(by_mean[:, None], 5, axis=1), by_words


class Factorisation(_TwoTables):
    """Ratings of pairs as products of two vectors, squared error."""

    loss = "mse"

    @staticmethod
    def data():
        ratings = np.random.default_rng(4).normal(size=(SAMPLES, 1)).astype("float32")
        return (ids(5), ids(6)), ratings

    def call(self, x):
        return ops.sum(self.first(x[0]) * self.second(x[1]), axis=-1, keepdims=True)

    def rows_gradient(self, x, y, sample_weight):
        u, v = self.vectors(x)
        error = ops.sum(u * v, axis=-1, keepdims=True) - y
        factor = mean_of(error, sample_weight)
        return ops.sum(factor * error**2), 2 * factor * error * v, 2 * factor * error * u


MODELS = [SkipGram, Cbow, Factorisation]


def make(kind, *bases, seed=0, **attributes):
    """A model of the kind with the bases, such as `kc.Model`; attributes of its class besides."""
    keras.utils.set_random_seed(seed)
    return type(kind.__name__, (kind, *bases), attributes)()


class Given(kc.Model):
    """A table whose gradient is in the data."""

    def __init__(self):
        super().__init__()
        self.rows = table("rows")

    def call(self, x):
        return ops.sum(self.rows(x), axis=-1)

    def closed_form_gradient(self, x, y, sample_weight):
        return ops.sum(y), [kc.RowSparse(x, y, (ROWS, WIDTH))]


def trained_on_given_rows(optimizer):
    """The weights before, the rows and gradients of five steps, and the weights after."""
    rng = np.random.default_rng(5)
    rows, gradients = rng.integers(0, ROWS, (5, 3)), rng.normal(size=(5, 3, WIDTH))
    keras.utils.set_random_seed(3)
    model = Given()
    model.compile(optimizer)
    before = np.float64(model.get_weights()[0])
    x, y = rows.astype("int32"), gradients.astype("float32")
    model.fit(x, y, 1, verbose=0, shuffle=False)
    return before, list(zip(rows, gradients, strict=True)), model.get_weights()[0]


def assert_other_rows_stay(optimizer):
    """Rows that a batch does not read, and what the optimizer knows of them, stay to the bit."""
    model = make(SkipGram, kc.Model, closed_form_gradient=None)
    model.compile(optimizer, loss=SkipGram.loss, row_sparse=True)
    (words, contexts), y = SkipGram.data()
    model.fit((words[:8], contexts[:8]), y[:8], 8, verbose=0)  # moments that could decay
    variables = [*model.weights, *model.optimizer.variables[2:]]
    before = [np.array(v.numpy()) for v in variables]
    model.fit((words[8:16], contexts[8:16]), y[8:16], 8, verbose=0)
    for variable, value in zip(variables, before, strict=True):
        read = np.unique((words if "first" in variable.path else contexts)[8:16])
        others = np.setdiff1d(np.arange(ROWS), read)
        np.testing.assert_array_equal(variable.numpy()[others], value[others])
        assert (variable.numpy()[read] != value[read]).any(axis=1).all()
