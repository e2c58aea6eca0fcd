"""Losses that compare the samples of a batch with each other, as Keras calls a loss."""

import keras
from keras import ops

TEMPERATURE = 0.2


def unit(embeddings):
    """The rows of a matrix, scaled to length 1; those of zeros have a gradient too."""
    squares = ops.sum(ops.square(embeddings), axis=-1, keepdims=True)
    return embeddings / ops.sqrt(squares + 1e-12)


def info_nce(y_true, y_pred):
    """InfoNCE as in CLIP: both embeddings of a sample side by side, each to find the other.

    Reference:
        Radford and others, 2021, "Learning Transferable Visual Models from Natural Language
        Supervision", figure 3.
    """
    first, second = (unit(half) for half in ops.split(y_pred, 2, axis=-1))
    logits = ops.matmul(first, ops.transpose(second)) / TEMPERATURE
    own = ops.arange(ops.shape(logits)[0])
    find = keras.losses.sparse_categorical_crossentropy
    rows = find(own, logits, from_logits=True)
    columns = find(own, ops.transpose(logits), from_logits=True)
    return (rows + columns) / 2


def supervised_contrastive(y_true, y_pred):
    """Each sample to find those of its class.

    Reference:
        Khosla and others, 2020, "Supervised Contrastive Learning", equation 2.
    """
    embeddings = unit(y_pred)
    logits = ops.matmul(embeddings, ops.transpose(embeddings)) / TEMPERATURE
    label = ops.reshape(y_true, (-1,))
    other = 1 - ops.eye(ops.shape(logits)[0], dtype=logits.dtype)
    same = ops.cast(label[:, None] == label[None], logits.dtype) * other
    logs = logits - ops.logsumexp(logits - 1e9 * (1 - other), axis=1, keepdims=True)
    return -ops.sum(same * logs, axis=1) / ops.maximum(ops.sum(same, axis=1), 1.0)


def dice(y_true, y_pred):
    """The soft Dice loss of all pixels of a batch, a scalar.

    Reference:
        Milletari, Navab and Ahmadi, 2016, "V-Net", section 3.
    """
    both = ops.sum(y_true * y_pred)
    return 1 - 2 * both / (ops.sum(ops.square(y_true)) + ops.sum(ops.square(y_pred)) + 1e-6)


def cox(y_true, y_pred):
    """The negative log partial likelihood; `y_true` has the time and whether there was an event.

    Reference:
        Cox, 1972, "Regression Models and Life-Tables", equation 12 (Breslow's ties).
    """
    time, event = y_true[:, 0], y_true[:, 1]
    risk = ops.reshape(y_pred, (-1,))
    at_risk = ops.cast(time[None] >= time[:, None], risk.dtype)
    log_risk = ops.logsumexp(risk[None] - 1e9 * (1 - at_risk), axis=1)
    return ops.sum(event * (log_risk - risk)) / ops.maximum(ops.sum(event), 1.0)


def correlation(y_true, y_pred):
    """One minus Pearson's correlation over the batch, a scalar."""
    a, b = y_true - ops.mean(y_true), y_pred - ops.mean(y_pred)
    return 1 - ops.sum(a * b) / ops.sqrt(ops.sum(a * a) * ops.sum(b * b) + 1e-12)


def ranking(y_true, y_pred):
    """A smooth 1 - AUC: the share of pairs in the wrong order, by the logistic loss.

    Reference:
        Burges and others, 2005, "Learning to Rank using Gradient Descent" (RankNet), section 3.
    """
    score, label = ops.reshape(y_pred, (-1,)), ops.reshape(y_true, (-1,))
    pairs = ops.cast(label[:, None] > label[None], score.dtype)
    wrong = ops.softplus(score[None] - score[:, None])
    return ops.sum(pairs * wrong) / ops.maximum(ops.sum(pairs), 1.0)
