"""A batch taken apart into micro-batches, and what is computed on them put together again."""

from numbers import Integral
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_cool import backend
from keras_cool.backend.row_sparse import RowSparse
from keras_cool.gradients import densify
from keras_cool.keras_private import OverlayScope
from keras_cool.training.loss_shares import BatchWeight


class Part(NamedTuple):
    """What is computed on a part of a batch, or on the whole.

    Attributes:
        loss: Scalar tensor.
        aux: Nest of tensors that the loss function returned beside the loss, or `None`.
        logs: Nest of tensors, or `None`.
        gradients: List of tensors or `None`, those of the scaled loss times the part's share of the
            samples; empty if they were not asked for.
        weight: `BatchWeight`.
        measured: List of scalar tensors that are added up over the parts.
    """

    loss: Any
    aux: Any
    logs: Any
    gradients: list
    weight: BatchWeight
    measured: list


def checked_size(size):
    """Returns `microbatch_size` as an integer."""
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        raise ValueError(
            "`microbatch_size` is the number of samples that are computed at a time: a "
            f"positive integer. It was given {size!r}. For example: "
            "model.compile('adam', loss='mse', microbatch_size=16). With "
            '`microbatch_size="auto"` it is the largest that fits, with `microbatch_size=None` '
            "every batch is computed at once."
        )
    return int(size)


def take_apart(batch):
    """Returns `(tensors, pack)`: the tensors of a batch, and the function that makes a batch of
    tensors like them."""
    leaves = tree.flatten(batch)
    present = [leaf is not None for leaf in leaves]
    tensors = [_dense(leaf) for leaf in leaves if leaf is not None]
    _check(tensors)

    def pack(tensors):
        remaining = iter(tensors)
        return tree.pack_sequence_as(batch, [next(remaining) if p else None for p in present])

    return tensors, pack


def in_microbatches(compute, tensors, pack, size, like, are_rows):
    """Computes a batch one micro-batch after another, with the memory of one.

    Each micro-batch goes on from the state in which the one before left seeds, layer state and
    metrics. Gradients, losses and scalars in `aux` are added up, those that are `RowSparse` by
    joining their rows; the other tensors in `aux` have the samples as their first dimension, and
    are joined. The logs are those of the last one.

    Args:
        compute: A function `compute(microbatch, share)` that returns a `Part`. `share` is the
            micro-batch's share of the samples, a number or a scalar tensor.
        tensors: List of the tensors of the batch, samples first.
        pack: A function of such a list that returns a batch.
        size: Integer, the number of samples of a micro-batch.
        like: List of tensors shaped like the gradients, or an empty list.
        are_rows: A function of the tensors in `aux` that returns, for each, whether its first
            dimension is the samples.

    Returns:
        The `Part` that they make up, the whole.
    """
    assigned = []
    missing = [True] * len(like)
    shapes: list = []  # of the tables whose gradients are row-sparse, and `None` for the others
    template: list[Part] = []  # what a micro-batch gave; no tensor, which would leave the loop

    def body(state, microbatch, share):
        with OverlayScope(zip(assigned, state, strict=True)) as scope:
            part = compute(pack(microbatch), share)
        _note_assigned(assigned, scope, is_first=not template)
        missing[:] = [m and g is None for m, g in zip(missing, part.gradients, strict=True)]
        scalars, outputs = _split_aux(part.aux, microbatch[0], are_rows)
        shapes[:] = [_shape_of_table(g) for g in part.gradients]
        pairs = zip(part.gradients, like, strict=True)
        sums = [densify(g, p) for g, p in pairs if not isinstance(g, RowSparse)]
        rows = [
            t for g in part.gradients if isinstance(g, RowSparse) for t in (g.indices, g.values)
        ]
        sums += [s * ops.cast(share, s.dtype) for s in [part.loss, *scalars]]
        sums += part.measured
        if part.weight.divisor is not None:
            sums.append(part.weight.divisor)
        template[:] = [
            part._replace(
                loss=None,
                aux=_without_tensors(part.aux),
                logs=_without_tensors(part.logs),
                gradients=[],
                weight=_without_tensors(part.weight),
                measured=[None] * len(part.measured),
            )
        ]
        state = [scope.get_current_value(v) for v in assigned]
        return [wide(s) for s in sums], state, outputs, rows, _tensors(part.logs)

    def state():
        return [v.value for v in assigned]

    sums, new_state, outputs, rows, logs = backend.loops.over_microbatches(
        body, state, tensors, size
    )
    for variable, value in zip(assigned, new_state, strict=True):
        variable.assign(value)
    last = template[0]
    divisor = None if last.weight.divisor is None else sums.pop()
    measured = [sums.pop() for _ in last.measured][::-1]
    sums, rows = iter(sums), iter(rows)
    gradients = [
        RowSparse(next(rows), next(rows), shape) if shape else ops.cast(next(sums), p.dtype)
        for shape, p in zip(shapes, like, strict=True)
    ]
    gradients = [None if absent else g for g, absent in zip(gradients, missing, strict=True)]
    loss, *scalars = sums
    return Part(
        loss,
        _joined_aux(last.aux, scalars, outputs),
        _with_tensors(last.logs, logs),
        gradients,
        last.weight._replace(divisor=divisor),
        measured,
    )


def _dense(leaf):
    if type(leaf).__name__ in ("SparseTensor", "RaggedTensor", "BCOO"):
        raise ValueError(
            "A batch that is split into micro-batches is made of dense tensors. It holds a "
            f"{type(leaf).__name__} of shape {tuple(leaf.shape)}. Convert it in the data, or "
            "compile without `microbatch_size`."
        )
    return ops.convert_to_tensor(leaf)


def _check(tensors):
    shapes = [tuple(t.shape) for t in tensors]
    if any(len(shape) == 0 for shape in shapes):
        raise ValueError(
            "A batch that is split into micro-batches has the samples as the first dimension of "
            f"every tensor. It has the shapes {shapes}. Give the scalars among them that dimension "
            "too, or make them attributes of the model."
        )
    if len({shape[0] for shape in shapes if shape[0] is not None}) > 1:
        raise ValueError(
            "A batch that is split into micro-batches has the same number of samples in every "
            f"tensor. It has the shapes {shapes}. Give them the same first dimension, or compile "
            "without `microbatch_size`."
        )


def _shape_of_table(gradient):
    return gradient.shape if isinstance(gradient, RowSparse) else None


def _note_assigned(assigned, scope, is_first):
    known = {id(v) for v in assigned}
    new = [variable for variable, _ in scope.updates if id(variable) not in known]
    if new and not is_first:
        raise ValueError(
            f"A later micro-batch assigns to variables that the first one did not: "
            f"{[v.path for v in new]}. Assign to the same variables in each."
        )
    assigned.extend(new)


def wide(tensor):
    """Returns a tensor of 32 bits where it has 16, in which sums would lose too much."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return ops.cast(tensor, "float32") if dtype in ("float16", "bfloat16") else tensor


def _tensors(nest):
    return [leaf for leaf in tree.flatten(nest) if ops.is_tensor(leaf)]


class _Place:
    """Stands for a tensor in a nest."""

    def __init__(self, tensor):
        self.dimensions = len(tensor.shape)


def _without_tensors(nest):
    return tree.map_structure(lambda x: _Place(x) if ops.is_tensor(x) else x, nest)


def _with_tensors(nest, tensors):
    remaining = iter(tensors)
    leaves = [next(remaining) if isinstance(x, _Place) else x for x in tree.flatten(nest)]
    return tree.pack_sequence_as(nest, leaves)


def _split_aux(aux, microbatch, are_rows):
    """Returns the scalars of `aux`, to be averaged, and its other tensors, to be joined."""
    tensors = _tensors(aux)
    scalars = [t for t in tensors if len(t.shape) == 0]
    rows = [t for t in tensors if len(t.shape) > 0]
    integers = any("float" not in keras.backend.standardize_dtype(t.dtype) for t in scalars)
    # A tensor may have as many entries as a micro-batch has samples, by chance.
    others = integers or any(t.shape[0] != microbatch.shape[0] for t in rows)
    if others or (
        rows and not all(r for r, t in zip(are_rows(tensors), tensors, strict=True) if len(t.shape))
    ):
        shapes = [f"{keras.backend.standardize_dtype(t.dtype)} {tuple(t.shape)}" for t in tensors]
        raise ValueError(
            "Under `microbatch_size` what a loss function returns beside the loss, and under "
            "`whole_batch_loss` each output of the model, is either a floating-point scalar, which "
            "is averaged over the samples, or has the samples as its first dimension, "
            f"{microbatch.shape[0]} of them here. It returned: {shapes}. Reduce the others to "
            "scalars, or leave them out."
        )
    return scalars, rows


def _joined_aux(aux, scalars, rows):
    scalars, rows = iter(scalars), iter(rows)
    places = [x for x in tree.flatten(aux) if isinstance(x, _Place)]
    return _with_tensors(aux, [next(rows) if p.dimensions else next(scalars) for p in places])
