"""How Keras' losses on a part of a batch are normalised, so that the parts make up the whole."""

from keras import ops

from keras_cool.keras_private import ReducingLosses, apply_mask


class UnknownNormaliserError(Exception):
    """A loss met a normaliser that has to be summed over the whole batch first."""


class WholeBatchLosses:
    r"""Makes the losses of parts add up: the mean of their values is the loss of the whole.

    A whole of parts \(j\) with the shares \(s_j\) of its samples has the loss
    \(\sum_j s_j \ell_j\). That holds for a mean over the samples as it stands, and for terms that
    no sample enters, as weight regularisers. What Keras normalises otherwise is corrected here: a
    `sum` loss by \(1 / s_j\), and a loss with the normaliser \(z_j\) (the sum of a mask, or of the
    sample weights under `mean_with_sample_weight`) by \(z_j / (s_j \sum_i z_i)\).

    Args:
        share: The part's share of the samples, a number or a scalar tensor.
        totals: List of the whole's normalisers \(\sum_i z_i\), one for each loss that has one, in
            the order in which they are computed; or `None` where they are not to be had, and such
            a loss stays as it is.
    """

    def __init__(self, share, totals=None):
        self.normalisers = []
        self.reductions = 0
        self.sums = 0
        self._share = share
        self._totals = totals

    def correcting(self):
        """The context in which the losses of the part are computed."""
        return ReducingLosses(self._reduce)

    def only_normaliser(self, normalisers):
        """The normaliser of the only loss of the part, one of the list `normalisers`; `None` where
        it is the number of samples, or where there are several losses."""
        return normalisers[0] if normalisers and self.reductions == 1 else None

    @property
    def is_a_sum(self):
        """Whether all losses of the part are `sum` losses."""
        return 0 < self.sums == self.reductions

    def _reduce(self, keras_reduction, values, sample_weight, mask, reduction, dtype):
        masked = mask is not None and sample_weight is not None
        # Keras multiplies the mask into the weights, on PyTorch in place.
        weights = ops.copy(sample_weight) if masked else sample_weight
        loss = keras_reduction(values, weights, mask, reduction, dtype)
        if reduction in (None, "none") or len(ops.shape(values)) == 0:
            return loss
        self.reductions += 1
        if reduction == "sum":
            self.sums += 1
            return loss / ops.cast(self._share, loss.dtype)
        normaliser = _normaliser(sample_weight, mask, reduction, loss.dtype)
        if normaliser is None:
            return loss
        self.normalisers.append(normaliser)
        if self._totals is None:
            return loss
        if len(self.normalisers) > len(self._totals):
            raise UnknownNormaliserError
        total = self._totals[len(self.normalisers) - 1]
        return loss * ops.divide_no_nan(normaliser, total * ops.cast(self._share, loss.dtype))


def _normaliser(sample_weight, mask, reduction, dtype):
    """What the loss is divided by, up to a constant; `None` where that is the number of samples."""
    mask = None if mask is None else ops.cast(mask, dtype)
    if reduction != "mean_with_sample_weight" or sample_weight is None:
        return None if mask is None else ops.sum(mask)
    weights = ops.copy(ops.cast(sample_weight, dtype))
    return ops.sum(apply_mask(weights, mask, dtype=dtype, reduction=reduction))
