"""`Microbatches`: how many samples of a batch are computed at a time, and how it is taken apart."""

from numbers import Integral

import keras
from keras import ops, tree


class Microbatches:
    """The micro-batches of a model's batches.

    Args:
        size: Integer, the number of samples that are computed at a time, on each device.

    Raises:
        ValueError: If `size` is not a positive integer.
    """

    def __init__(self, size):
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise ValueError(
                "`microbatch_size` is the number of samples that are computed at a time: a "
                f"positive integer. It was given {size!r}. For example: "
                "model.compile('adam', loss='mse', microbatch_size=16). With "
                "`microbatch_size=None` every batch is computed at once."
            )
        self.size = int(size)
        self.have_counted = False  # not in a step of one's own
        self._skipped_steps = keras.Variable(
            0,
            dtype="int32",
            trainable=False,
            aggregation="only_first_replica",
            name="skipped_steps",
        )

    @property
    def variables(self):
        """The state: a count that is no part of the model's weights."""
        return [self._skipped_steps]

    def count(self, gradient_evaluations, finite):
        """Counts a step as skipped if its gradient was not `finite`, a scalar boolean tensor."""
        self.have_counted = True
        self._skipped_steps.assign_add(ops.cast(ops.logical_not(finite), "int32"))

    def step_logs(self):
        """What a step adds to the logs: a dictionary of names and scalar tensors."""
        return {"skipped_steps": self._skipped_steps.value + 0}  # + 0: a copy

    @staticmethod
    def flatten(batch):
        """Gives `(tensors, pack)`: the tensors of a batch, and the function that makes a batch of
        tensors like them."""
        leaves = tree.flatten(batch)
        present = [leaf is not None for leaf in leaves]
        tensors = [_dense(leaf) for leaf in leaves if leaf is not None]
        _check(tensors)

        def pack(tensors):
            remaining = iter(tensors)
            return tree.pack_sequence_as(batch, [next(remaining) if p else None for p in present])

        return tensors, pack


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
