"""How Keras' losses on a part of a batch are normalised, so that the parts make up the whole."""

from typing import Any, NamedTuple

from keras import ops, tree

from keras_cool.float64 import measured_dtype
from keras_cool.keras_private import OverlayScope, ReducingLosses, apply_mask, in_layer_call


class UnknownNormaliserError(Exception):
    """A loss met a normaliser that has to be summed over the whole batch first."""


class UnknownSumError(Exception):
    """A loss is a sum, and it has to be found out first whether over samples."""


class _All:
    def __getitem__(self, index):
        return True


ALL = _All()  # for `sums`: each of them is one over samples


class LossKinds:
    """What kinds of losses a model has met, and what stands beside them: found out when they are
    computed, and remembered, since outside of a compiled step to find out costs a forward pass each
    time."""

    def __init__(self):
        self.have_normalisers = False
        self.have_sums = False
        self.are_rows = {}  # whether tensors beside a loss have the samples first, by their shapes


class BatchWeight(NamedTuple):
    """How much the gradient of a batch counts among those of other batches.

    Attributes:
        divisor: Scalar tensor, what the first of the losses is divided by: the number of its
            values, or its normaliser. `None`: there is no such loss, and the batch counts by its
            samples.
        is_a_sum: Boolean, whether all losses are `sum` losses, whose gradients are added up.
        is_ambiguous: Boolean, whether the losses may be divided by numbers that are not in
            proportion.
    """

    divisor: Any = None
    is_a_sum: bool = False
    is_ambiguous: bool = False


class LossShare:
    r"""Makes the losses of parts add up: the mean of their values is the loss of the whole.

    A whole of parts \(j\) with the shares \(s_j\) of its samples has the loss
    \(\sum_j s_j \ell_j\). That holds for a mean over the samples as it stands, and for terms that
    no sample enters, as weight regularisers. What Keras normalises otherwise is corrected here: a
    `sum` loss by \(1 / s_j\), and a loss with the normaliser \(z_j\) (the sum of a mask, or of the
    sample weights under `mean_with_sample_weight`) by \(z_j / (s_j \sum_i z_i)\).

    Where several wholes make up the window of an update, only a `sum` loss has to know of it: the
    others are means over the whole, which the optimizer weights by their `divisor`.

    Args:
        share: The part's share of the samples, a number or a scalar tensor.
        totals: List of the whole's normalisers \(\sum_i z_i\), one for each loss that has one, in
            the order in which they are computed; or `None`: the part is the whole, and such a
            loss stays as it is.
        window_share: The whole's share of the window, a number or a scalar tensor.
        sums: List of booleans, whether a sum is one over samples, for each `sum` loss in the order
            in which they are computed; or `None` where that is not known, an `UnknownSumError`.
    """

    def __init__(self, share, totals=None, window_share=1.0, sums=None):
        self._are_of_samples = sums
        self._share = share
        self._totals = totals
        self._window_share = window_share
        self.begin_again()

    def begin_again(self):
        """Forgets the losses met: those of the part are computed once more."""
        self.normalisers = []
        self.shapes_of_sums = []
        self._divisor = None
        self._divisor_is_of_a_layer = False
        self._reductions = 0
        self._sums = 0

    def correcting(self):
        """Returns the context in which the losses of the part are computed."""
        return ReducingLosses(self._reduce)

    @property
    def weight(self):
        """The `BatchWeight` of the part, once its losses are computed."""
        is_a_sum = 0 < self._sums == self._reductions
        return BatchWeight(self._divisor, is_a_sum, self._reductions > 1 and bool(self.normalisers))

    def _reduce(self, keras_reduction, values, sample_weight, mask, reduction, dtype):
        masked = mask is not None and sample_weight is not None
        # Keras multiplies the mask into the weights, on PyTorch in place.
        weights = ops.copy(sample_weight) if masked else sample_weight
        loss = keras_reduction(values, weights, mask, reduction, dtype)
        if reduction in (None, "none") or len(ops.shape(values)) == 0:
            return loss
        if reduction == "sum":
            self.shapes_of_sums.append(tuple(values.shape))
            if self._are_of_samples is None:
                raise UnknownSumError
            if not self._are_of_samples[len(self.shapes_of_sums) - 1]:
                return loss  # as a penalty on weights, which no sample enters
            self._reductions += 1
            self._sums += 1
            share = ops.cast(self._share, loss.dtype) * ops.cast(self._window_share, loss.dtype)
            return loss / share
        self._reductions += 1
        normaliser = _normaliser(sample_weight, mask, reduction, loss.dtype)
        # Losses that layers add come after the others.
        if self._divisor is None or (self._divisor_is_of_a_layer and not in_layer_call()):
            divisor = ops.size(values) if normaliser is None else normaliser
            self._divisor = ops.cast(divisor, measured_dtype())
            self._divisor_is_of_a_layer = in_layer_call()
        if normaliser is None:
            return loss
        self.normalisers.append(normaliser)
        if self._totals is None:
            return loss
        if len(self.normalisers) > len(self._totals):
            raise UnknownNormaliserError
        total = self._totals[len(self.normalisers) - 1]
        return loss * ops.divide_no_nan(normaliser, total * ops.cast(self._share, loss.dtype))


class SampleDimensions:
    """Tells what follows the number of samples from what does not, by a look at two and at three.

    Not at one, which layers may refuse, as a batch normalisation of PyTorch does.

    Args:
        run: A function `run(batch, losses)` that computes the losses of a batch within
            `losses.correcting()`, and returns what stands beside the loss, a nest of tensors.
        tensors: List of the tensors of a batch, samples first.
        pack: A function of such a list that gives the batch.
    """

    def __init__(self, run, tensors, pack):
        self._seen = []
        for count in (2, 3):
            losses = LossShare(1.0, sums=ALL)
            few = [ops.take(t, [0] * count, axis=0) for t in tensors]
            with OverlayScope():
                aux = run(pack(few), losses)
            tensors_of_aux = [t for t in tree.flatten(aux) if ops.is_tensor(t)]
            shapes = [tuple(t.shape) for t in tensors_of_aux]
            self._seen.append((losses.shapes_of_sums, shapes))

    @property
    def of_sums(self):
        """Whether each of the `sum` losses is one over samples."""
        two, three = (shapes for shapes, _ in self._seen)
        return [a != b for a, b in zip(two, three, strict=True)]

    @property
    def of_aux(self):
        """Whether each tensor beside the loss has the samples as its first dimension."""
        two, three = (shapes for _, shapes in self._seen)
        return [a[:1] == (2,) and b[:1] == (3,) for a, b in zip(two, three, strict=True)]


def _normaliser(sample_weight, mask, reduction, dtype):
    """What the loss is divided by, up to a constant; `None` where that is the number of samples."""
    mask = None if mask is None else ops.cast(mask, dtype)
    if reduction != "mean_with_sample_weight" or sample_weight is None:
        return None if mask is None else ops.sum(mask)
    weights = ops.copy(ops.cast(sample_weight, dtype))
    return ops.sum(apply_mask(weights, mask, dtype=dtype, reduction=reduction))
