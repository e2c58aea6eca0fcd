"""How much a batch counts where an optimizer accumulates: told from the losses to the optimizer.

The gradients that a step computes reach an optimizer by way of the step's own code, which may add
them up, clip them or drop some. What their loss is divided by is noted here meanwhile.
"""

import contextlib
import warnings

from keras_cool import backend
from keras_cool.optimizer_roles import Batch, accumulators


class BatchWeights:
    """What the losses of one step have said about the weight of its batch.

    Args:
        samples: Number of samples of the batch, an integer or a scalar tensor: what it counts by
            where nothing else is noted.
        weighs: Boolean. If `False` all batches count alike, as on a model without the mixin.
    """

    def __init__(self, samples=1.0, weighs=True):
        self._samples = samples
        self._weighs = weighs
        self._noted = {}
        self._trace = backend.updates.present_trace()

    @contextlib.contextmanager
    def begin_batch(self, optimizers):
        """Returns the context of the step: a new batch for each of the `optimizers` that
        accumulates."""
        with contextlib.ExitStack() as stack:
            for accumulator in self._weighted(*optimizers):
                accumulator.begin_batch()
                batch = Batch(self._samples, samples=self._samples)
                stack.enter_context(accumulator.counting(batch))
            yield

    def note(self, evaluation, optimizer):
        """Notes what the loss of an `Evaluation` is divided by, for its variables."""
        accumulate = self._weighted(optimizer)
        if not accumulate:
            return
        if self._trace != backend.updates.present_trace():
            return  # what is computed inside a loop stays there: such gradients count by samples
        if evaluation.weight.is_ambiguous:
            warnings.warn(
                "The model has several losses, one of them with a mask or with weights that it is "
                "divided by. Accumulate weights a batch as a whole, by the first loss: the others "
                "are exact only if they are divided by the same. One large batch with "
                "compile(microbatch_size=...) is exact for all of them.",
                stacklevel=2,
            )
        divisor, is_a_sum, _ = evaluation.weight
        if is_a_sum:
            weight = accumulate[0].share()
        else:
            weight = self._samples if divisor is None else divisor
        for variable in evaluation.variables:
            self._noted.setdefault(id(variable), (weight, is_a_sum))

    @contextlib.contextmanager
    def counting(self, optimizer, variables):
        """Returns the context in which the gradients that `optimizer` is given for variables count
        as noted, once."""
        noted = [self._noted[id(v)] for v in variables if id(v) in self._noted]
        weight, adds_up = noted[0] if noted else (self._samples, False)
        batch = Batch(weight, adds_up, self._samples, list(variables))
        with contextlib.ExitStack() as stack:
            for accumulator in self._weighted(optimizer):
                stack.enter_context(accumulator.counting(batch))
            yield
        for variable in variables:
            self._noted.pop(id(variable), None)

    def window_share(self, optimizer):
        """Returns a batch's share of the batches that an update of `optimizer` is made of, a number
        or a scalar tensor."""
        accumulate = self._weighted(optimizer)
        return accumulate[0].share() if accumulate else 1.0

    def _weighted(self, *optimizers):
        return accumulators(*optimizers) if self._weighs else []
