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
        """What one part counts beside others, if a single loss decides it.

        Args:
            normalisers: List of the normalisers of the part.

        Returns:
            The normaliser of the only loss, 1 where that is a `sum` loss; `None` where it is the
            number of samples, or where there are several losses.
        """
        if self.reductions != 1:
            return None
        if self.sums:
            return 1.0
        return normalisers[0] if normalisers else None

    def _reduce(self, keras_reduction, values, sample_weight, mask, reduction, dtype):
        loss = keras_reduction(values, sample_weight, mask, reduction, dtype)
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
    if reduction == "mean_with_sample_weight":
        weights = None if sample_weight is None else ops.convert_to_tensor(sample_weight, dtype)
        mask = None if mask is None else ops.convert_to_tensor(mask, dtype)
        weights = apply_mask(weights, mask, dtype=dtype, reduction=reduction)
        return None if weights is None else ops.sum(weights)
    return None if mask is None else ops.sum(ops.cast(mask, dtype))
