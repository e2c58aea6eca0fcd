"""A loss over the whole batch with the memory of a micro-batch (GradCache): `TwoPasses`."""

from functools import partial
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_cool import backend
from keras_cool.gradients import densify
from keras_cool.keras_private import (
    LossesOfOneReplica,
    OverlayScope,
    batch_size,
    get_keras_mask,
    present_overlay,
    set_keras_mask,
)
from keras_cool.training.evaluation import Evaluation, Objective
from keras_cool.training.loss_shares import ALL, LossShare
from keras_cool.training.microbatches import wide


class Outputs(NamedTuple):
    """What a forward pass leaves for the loss.

    Attributes:
        nest: The outputs, any nest of tensors.
        masks: List of the Keras masks of its leaves, tensors or `None`.
        added: List of the losses that layers added: tensors.
    """

    nest: Any
    masks: list
    added: list


class TwoPasses(Evaluation):
    r"""An `Evaluation` of a loss that is not a mean over samples, as it compares them.

    The outputs \(o_j\) of all micro-batches are computed first, then the loss \(L\) and its
    gradients on the whole batch, then each micro-batch once more, to take the gradient by its
    outputs back to the weights:

    \[ \frac{dL}{d\theta} = \frac{\partial L}{\partial \theta}
        + \sum_j \left(\frac{\partial o_j}{\partial \theta}\right)^T
        \frac{\partial L}{\partial o_j} \]

    What layers add to the loss counts among the outputs. Both passes start from the same state and
    draw the same random numbers. On replicas the batch is that of all of them.

    Args: As for `Evaluation`.

    Reference:
        Gao, Zhang, Han and Callan, 2021, "Scaling Deep Contrastive Learning Batch Size under Memory
        Limited Setup", section 3.
    """

    def __init__(self, objective, *args, events=None, tables=(), **kwargs):
        super().__init__(objective, *args, **kwargs)  # with dense gradients of the tables
        if objective.closed_form is not None:
            raise ValueError(
                "A `closed_form_gradient` is a mean over micro-batches, and under "
                "`whole_batch_loss` they have no loss of their own. Compile without "
                "`whole_batch_loss`, or take the gradient by automatic differentiation: without "
                "`closed_form_gradient`."
            )
        if events is not None:
            raise ValueError(
                "Under `whole_batch_loss` a micro-batch has no loss of its own, and so no gradient "
                "that a callback (GradientNoiseScale) could measure. Leave the callback out."
            )

    def of_each_part(self, point, displace):
        raise ValueError(
            "Under `whole_batch_loss` a micro-batch has no loss of its own, and so no gradient at "
            "a point of its own. Use SAM without `per_part`, or compile without `whole_batch_loss`."
        )

    def of_residuals(self, point, reduce, like, check):
        raise ValueError(
            "LevenbergMarquardt is for losses that are sums of squares over the samples, which "
            "micro-batches add up by themselves. Compile it without `whole_batch_loss`, or use "
            "another optimizer, for example keras_cool.optimizers.LBFGS."
        )

    def _evaluated(self, point, differentiate=True, displace=None):
        is_first, again = self.loss is None, backend.snapshots.SameRandomNumbers()
        with LossesOfOneReplica():
            with again, OverlayScope() as after:
                outputs, layers = self._outputs(point)
            before = [(v, v.value) for v, _ in after.updates]
            for variable, value in after.updates:
                variable.assign(value)

            (batch, whole), own, share = _of_all_replicas((self._batch, outputs))
            part = self._part(
                point,
                batch,
                LossShare(1.0, window_share=self._window_share, sums=ALL),
                share=None,
                differentiate=differentiate,
                of_given=partial(self._loss_of_whole, whole, layers),
                given=_floating(whole),
            )
            gradients = [
                None if g is None else _of_this_replica(densify(g, p))
                for g, p in zip(part.gradients, point, strict=False)
            ]
            cotangents = [
                None if c is None else _of_own(densify(c, t), own, share)
                for c, t in zip(part.gradients[len(point) :], _floating(whole), strict=False)
            ]
            if any(c is not None for c in cotangents):
                # Its first micro-batch would run beside the first pass, in a graph.
                with backend.loops.after(cotangents), again, OverlayScope(before):
                    pulled_back = self._pulled_back(point, cotangents)
                gradients = _added_up(gradients, pulled_back, point)
        part = part._replace(loss=_of_this_replica(part.loss), gradients=gradients)
        if is_first:
            nest = _with_masks(outputs.nest, outputs.masks)
            part = part._replace(logs=self._summarised(self._batch, nest, part.loss))
        return part

    def _outputs(self, point):
        """The first pass. Returns the `Outputs` of the batch, those of this replica, and the layers
        that added its losses."""
        layers = []
        objective = Objective(
            partial(self._forward, layers), lambda *_: ops.zeros(()), aux=lambda outputs: outputs
        )
        evaluation = self._pass(objective, self._batch)
        outputs = evaluation._evaluated(point, differentiate=False).aux
        self._others_read.update(evaluation._others_read)
        return outputs, layers

    def _loss_of_whole(self, whole, layers, batch, losses, *given):
        """The loss on the whole batch, where `given` are the floating-point tensors of `whole`."""
        whole = _with_floating(whole, given)
        for layer, loss in zip(layers, whole.added, strict=True):
            layer.add_loss(loss)
        with losses.correcting():
            return self._loss_of_outputs(batch, _with_masks(whole.nest, whole.masks))

    def _pulled_back(self, point, cotangents):
        """The second pass. Returns the gradients of the outputs times their cotangents."""
        rows = [c if c is not None and len(c.shape) else None for c in cotangents]
        samples = batch_size(self._batch)

        def loss(*batch_and_outputs):
            *_, rows, outputs = batch_and_outputs
            total = ops.zeros(())
            for tensor, row, cotangent in zip(_floating(outputs), rows, cotangents, strict=True):
                if cotangent is None:
                    continue
                if row is None:  # a scalar, a mean over the samples
                    product = wide(tensor) * wide(cotangent)
                else:  # as a mean over the samples too, of which the micro-batches make the sum
                    product = ops.sum(wide(tensor) * wide(row))
                    product *= ops.cast(samples, product.dtype) / ops.cast(
                        ops.shape(row)[0], product.dtype
                    )
                total = ops.add(total, product)
            return total

        objective = Objective(lambda *batch: self._forward([], *batch[:-1]), loss)
        evaluation = self._pass(objective, (*self._batch, rows))
        return evaluation._evaluated(point).gradients

    def _pass(self, objective, batch):
        size = self._microbatch_size
        return Evaluation(
            objective, batch, self.variables, lambda loss: loss, size, kinds=self._kinds
        )

    def _forward(self, layers, *batch):
        outputs = self._objective.forward(*batch)
        added = present_overlay().added_losses
        layers[:] = [layer for layer, _ in added]
        masks = [get_keras_mask(_checked(leaf)) for leaf in tree.flatten(outputs)]
        return Outputs(outputs, masks, [loss for _, loss in added])


def _checked(leaf):
    """Returns one of the outputs, if it can be joined."""
    name = type(leaf).__name__
    is_dense = ops.is_tensor(leaf) and name not in ("SparseTensor", "RaggedTensor", "BCOO")
    dtype = keras.backend.standardize_dtype(leaf.dtype) if is_dense else ""
    if not (is_dense or leaf is None or isinstance(leaf, bool | int | float | str)) or (
        "complex" in dtype
    ):
        raise ValueError(
            "Under `whole_batch_loss` the outputs are dense tensors of real numbers with the "
            f"samples as their first dimension. There is one of type {name} {dtype}among them. "
            "Convert it, or compile without `microbatch_size`."
        )
    return leaf


def _is_floating(leaf):
    return ops.is_tensor(leaf) and "float" in keras.backend.standardize_dtype(leaf.dtype)


def _floating(nest):
    """The floating-point tensors of a nest, by which a loss can be differentiated."""
    return [leaf for leaf in tree.flatten(nest) if _is_floating(leaf)]


def _with_floating(nest, tensors):
    """The nest with other floating-point tensors."""
    remaining = iter(tensors)
    leaves = [next(remaining) if _is_floating(leaf) else leaf for leaf in tree.flatten(nest)]
    return tree.pack_sequence_as(nest, leaves)


def _with_masks(nest, masks):
    """The nest, its tensors with their Keras masks, by which Keras' losses weight."""
    for leaf, mask in zip(tree.flatten(nest), masks, strict=True):
        if mask is not None:
            set_keras_mask(leaf, mask)
    return nest


def _of_all_replicas(nest):
    """Returns `(nest, own, share)`: the nest of all replicas, a function that gives the rows of
    this one, and its share of the samples. Rows are joined, and scalars are means over samples."""
    leaves = tree.flatten(nest)
    rows = [leaf for leaf in leaves if ops.is_tensor(leaf) and len(leaf.shape)]
    joined, own, share = backend.updates.join_over_replicas(rows)
    if backend.updates.number_of_replicas() == 1:
        return nest, own, share
    remaining = iter(joined)

    def of_all(leaf):
        if not ops.is_tensor(leaf):
            return leaf
        if len(leaf.shape):
            return next(remaining)
        return backend.updates.sum_over_replicas(leaf * ops.cast(share, leaf.dtype), [])[0]

    return tree.pack_sequence_as(nest, [of_all(leaf) for leaf in leaves]), own, share


def _of_own(gradient, own, share):
    """The gradient by an output of this replica, of that by the same output of all."""
    if backend.updates.number_of_replicas() == 1:
        return gradient
    return own(gradient) if len(gradient.shape) else gradient * ops.cast(share, gradient.dtype)


def _of_this_replica(sum_of_all):
    """This replica's part of a sum that each of them has computed."""
    replicas = backend.updates.number_of_replicas()
    return sum_of_all if replicas == 1 else sum_of_all / replicas


def _added_up(gradients, others, point):
    """The sums of two lists of gradients, `None` where both are."""
    return [
        b if a is None else a if b is None else densify(a, p) + densify(b, p)
        for a, b, p in zip(gradients, others, point, strict=True)
    ]
