"""`fingerprint`: tells one batch from another by its data, whatever the order of its samples."""

import keras
from keras import ops, tree

from keras_cool import backend

# Odd multipliers, after which each bit depends on those below it.
_OF_ENTRIES, _OF_PLACES, _OF_LEAVES, _OF_ROWS = 747796405, 277803737, 1181783497, 461845907


def fingerprint(batch):
    """Returns a number that is the same only for the same samples, but for a chance of 2^-32.

    The samples may be in another order, with their labels and weights in the same one. It takes
    about ten operations on each entry of the batch, on whole numbers: there is no rounding.

    Args:
        batch: Nest of tensors, samples first. Under a distribution strategy, this replica's part.

    Returns:
        Scalar int32 tensor, that of the whole batch, all replicas.
    """
    leaves = [leaf for leaf in tree.flatten(batch) if leaf is not None]
    leaves = [ops.convert_to_tensor(leaf, sparse=False) for leaf in leaves]
    rows = None
    rest = ops.zeros((), "int32")  # of leaves with more rows than others, as the nodes of graphs
    for place, leaf in enumerate(leaves):
        hashed = _rows(leaf) * _wrapped(_OF_LEAVES * (2 * place + 1))
        if rows is None:
            rows = hashed
            continue
        shared = _fewer(rows, hashed)
        if shared is not None:
            rest += _total(rows[shared:]) + _total(hashed[shared:])
            rows, hashed = rows[:shared], hashed[:shared]
        rows += hashed
    total = rest if rows is None else rest + _total(rows)
    return _over_replicas(total)


def _over_replicas(total):
    """The sum over the replicas, by halves of 16 bits, whose sums are exact in float32."""
    halves = [ops.bitwise_and(total, 0xFFFF), ops.bitwise_and(ops.right_shift(total, 16), 0xFFFF)]
    low, high = (ops.cast(half, "float32") for half in halves)
    low, (high,) = backend.updates.sum_over_replicas(low, [high])
    return ops.cast(low, "int32") + ops.cast(high, "int32") * 2**16


def _rows(leaf):
    """A whole number for each sample of a tensor."""
    shape = ops.shape(leaf)
    samples = shape[0] if len(shape) else 1
    columns = [_mixed(bits) for bits in _bits(ops.reshape(leaf, (samples, -1)))]
    places = [2 * ops.arange(ops.shape(c)[1], dtype="int32") + 1 for c in columns]
    factors = (_OF_PLACES, _OF_ENTRIES)
    return sum(
        ops.cast(ops.sum(c * (p * factor), axis=1), "int32")
        for c, p, factor in zip(columns, places, factors, strict=False)
    )


def _bits(x):
    """The entries of a tensor as int32 tensors of its shape, two for float64, none for strings."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype == "string":
        return [ops.zeros(ops.shape(x), "int32")]
    if "float" not in dtype:
        return [ops.cast(x, "int32")]
    high = ops.cast(x, "float32")
    parts = [high] if dtype != "float64" else [high, ops.cast(x - ops.cast(high, dtype), "float32")]
    return [_as_whole_numbers(part) for part in parts]


def _as_whole_numbers(x):
    # In one column: on TensorFlow `ops.view` asks for the last dimension in Python.
    return ops.reshape(ops.view(ops.reshape(x, (-1, 1)), "int32"), ops.shape(x))


def _mixed(x):
    x = x * _OF_ENTRIES
    return ops.bitwise_xor(x, ops.right_shift(x, 15))


def _total(rows):
    return ops.cast(ops.sum(_mixed(_mixed(rows * _OF_ROWS))), "int32")


def _fewer(a, b):
    """The smaller one of the lengths of two tensors, or `None` where they are known to be equal."""
    if a.shape[0] is not None and a.shape[0] == b.shape[0]:
        return None
    lengths = ops.shape(a)[0], ops.shape(b)[0]
    # On JAX `ops.minimum` of two integers would be traced, and no bound of a slice.
    return min(lengths) if all(isinstance(n, int) for n in lengths) else ops.minimum(*lengths)


def _wrapped(number):
    """A whole number as that of 32 bits with a sign which is left of it."""
    return (number + 2**31) % 2**32 - 2**31
