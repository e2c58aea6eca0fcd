"""The gradient of a whole batch, computed one micro-batch at a time: `MicrobatchEvaluation`."""

import keras
from keras import ops, tree

from keras_cool import backend
from keras_cool.gradients import densify
from keras_cool.keras_private import OverlayScope
from keras_cool.training.evaluation import Evaluation
from keras_cool.training.whole_batch import (
    ALL,
    UnknownNormaliserError,
    UnknownSumError,
    WholeBatchLosses,
)


class MicrobatchEvaluation(Evaluation):
    """An `Evaluation` that has the activations of one micro-batch in memory at a time.

    Micro-batches come one after another, and each goes on from the state in which the one before
    left seeds, layer state and metrics.

    Args:
        microbatches: The `Microbatches` to split the batch into.
        observers: List of the callbacks that look at the micro-batches of the first evaluation.
        *args: As for `Evaluation`; the logs are those of the last micro-batch, whose metrics have
            seen all. In `aux` the scalars are averaged over the samples; the other tensors have the
            samples as their first dimension, and are joined.
        **kwargs: As for `Evaluation`.
    """

    def __init__(self, microbatches, observers, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._microbatches = microbatches
        self._observers = observers
        self._measured = []

    def __call__(self, point):
        loss, gradients = super().__call__(point)
        if self.has_measured_parts:
            self.show_parts(gradients)
        return loss, gradients

    @property
    def has_measured_parts(self):
        """Whether the observers have measured parts that they were not shown yet."""
        return bool(self._measured)

    def show_parts(self, gradients):
        """Shows the observers the parts of all replicas, whose gradients are parts of a sum.

        Args:
            gradients: List of tensors, those of the whole batch, all replicas.
        """
        *measured, parts = self._measured
        self._measured = []
        replicas = backend.updates.number_of_replicas()
        scale = self._scale_loss(ops.ones(()))
        measured, parts = [m / scale**2 for m in measured], ops.cast(parts, "float32")
        parts, measured = backend.updates.sum_over_replicas(parts, measured)
        samples = ops.shape(tree.flatten(self._batch)[0])[0] * replicas
        for observer, value in zip(self._observers, measured, strict=True):
            observer.observe_parts(value * replicas, parts, samples, gradients)

    def _compute(self, point, differentiate=True):
        tensors, pack = self._microbatches.flatten(self._batch)
        observed = self._observers if self.loss is None and differentiate else []
        try:
            totals = self._normalisers(point, tensors, pack) if self._kinds.have_normalisers else []
            sums = self._sums_of_samples(point)
            return self._sum_over_microbatches(
                point, tensors, pack, totals, sums, differentiate, observed
            )
        except UnknownSumError:
            self._kinds.have_sums = True
        except UnknownNormaliserError:
            if self._kinds.have_normalisers:
                raise
            self._kinds.have_normalisers = True
        return self._compute(point, differentiate)

    def _normalisers(self, point, tensors, pack):
        """The losses' normalisers, summed over the batch: a forward pass, of which a compiler
        leaves what they depend on."""

        def body(state, microbatch, share):
            losses = WholeBatchLosses(share, sums=ALL)
            with OverlayScope(zip(self.variables, point, strict=True)), losses.correcting():
                self._loss_function(*pack(microbatch))
            return losses.normalisers, [], [], []

        return backend.loops.over_microbatches(body, list, tensors, self._microbatches.size)[0]

    def _sum_over_microbatches(
        self, point, tensors, pack, totals, sums_of_samples, differentiate, observed
    ):
        assigned, result = [], {}
        differentiated = point if differentiate else []
        missing = [True] * len(self.variables)

        def body(state, microbatch, share):
            losses = WholeBatchLosses(share, totals, self._window_share, sums_of_samples)
            first = not result
            with OverlayScope(zip(assigned, state, strict=True)) as scope:
                loss, aux, logs, gradients, divisor = self._part(
                    point, pack(microbatch), losses, share, differentiate
                )
            _note_assigned(assigned, scope, first)
            missing[:] = [m and g is None for m, g in zip(missing, gradients, strict=False)]
            # Not the tensors themselves, which would leave the loop.
            result.update(aux=_without_tensors(aux), logs=_without_tensors(logs))
            result.update(is_a_sum=losses.is_a_sum, has_divisor=divisor is not None)
            result.update(has_several_divisors=losses.have_several_divisors)
            scalars, rows = _split_aux(aux, microbatch[0], follow)
            sums = [densify(g, p) for g, p in zip(gradients, differentiated, strict=True)]
            sums += [s * ops.cast(share, s.dtype) for s in [loss, *scalars]]
            if divisor is not None:
                sums.append(divisor)
            if observed:
                sums += [observer.measure_part(gradients, share) for observer in observed]
                sums.append(ops.ones(()))
            state = [scope.get_current_value(v) for v in assigned]
            return [_wide(s) for s in sums], state, rows, _tensors(logs)

        def follow():
            return self._sample_dimensions(point).of_aux

        def state():
            return [v.value for v in assigned]

        sums, new_state, rows, logs = backend.loops.over_microbatches(
            body, state, tensors, self._microbatches.size
        )
        for variable, value in zip(assigned, new_state, strict=True):
            variable.assign(value)
        if observed:
            sums, self._measured = sums[: -len(observed) - 1], sums[-len(observed) - 1 :]
        divisor = sums.pop() if result["has_divisor"] else None
        self._note_weight(divisor, result["is_a_sum"], result["has_several_divisors"])
        gradients = [
            None if absent else ops.cast(g, p.dtype)
            for g, p, absent in zip(sums, differentiated, missing, strict=False)
        ]
        loss, *scalars = sums[len(differentiated) :]
        aux = _joined_aux(result["aux"], scalars, rows)
        return loss, aux, _with_tensors(result["logs"], logs), gradients


def _note_assigned(assigned, scope, first):
    known = {id(v) for v in assigned}
    new = [variable for variable, _ in scope.updates if id(variable) not in known]
    if new and not first:
        raise ValueError(
            f"A later micro-batch assigns to variables that the first one did not: "
            f"{[v.path for v in new]}. Assign to the same variables in each."
        )
    assigned.extend(new)


def _wide(tensor):
    """Sums of 16-bit numbers are made in 32 bits."""
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


def _split_aux(aux, microbatch, follow):
    """The scalars of `aux`, to be averaged, and its other tensors, to be joined.

    Args:
        aux: Nest of tensors.
        microbatch: Tensor, samples first.
        follow: A function that gives for each tensor whether its first dimension is the samples.
    """
    tensors = _tensors(aux)
    scalars = [t for t in tensors if len(t.shape) == 0]
    rows = [t for t in tensors if len(t.shape) > 0]
    integers = any("float" not in keras.backend.standardize_dtype(t.dtype) for t in scalars)
    # A tensor may have as many entries as a micro-batch has samples, by chance.
    others = integers or any(t.shape[0] != microbatch.shape[0] for t in rows)
    if others or (
        rows and not all(f for f, t in zip(follow(), tensors, strict=True) if len(t.shape))
    ):
        shapes = [f"{keras.backend.standardize_dtype(t.dtype)} {tuple(t.shape)}" for t in tensors]
        raise ValueError(
            "Under `microbatch_size` what a loss function returns beside the loss is either a "
            "floating-point scalar, which is averaged over the samples, or has the samples as its "
            f"first dimension, {microbatch.shape[0]} of them here. It returned: {shapes}. Reduce "
            "the others to scalars, or leave them out."
        )
    return scalars, rows


def _joined_aux(aux, scalars, rows):
    scalars, rows = iter(scalars), iter(rows)
    places = [x for x in tree.flatten(aux) if isinstance(x, _Place)]
    return _with_tensors(aux, [next(rows) if p.dimensions else next(scalars) for p in places])
