"""Gradients of a loss at any point, without moving a variable: `Evaluation`."""

from keras import ops

from keras_cool import backend
from keras_cool.gradients import KEEPS_ASSIGNED, densify, value_and_grad_at
from keras_cool.keras_private import OverlayScope, is_seed_state
from keras_cool.training.fingerprint import fingerprint
from keras_cool.training.microbatches import Microbatches
from keras_cool.training.whole_batch import (
    ALL,
    LossKinds,
    SampleDimensions,
    UnknownSumError,
    WholeBatchLosses,
)


class Evaluation:
    """Evaluates one loss and its gradients at given values of the trainable variables.

    The loss is computed in a scope that maps the variables to the point, so no variable changes.
    Every evaluation starts from the same state (seeds, layer state, metrics). What the first one
    assigns to it is kept in `updates`, pairs of variables and values, for the caller to assign once
    the step is decided; what the later ones assign is dropped.

    Args:
        loss_function: A function of the parts of the batch that returns `(loss, aux)`: the loss to
            differentiate, a scalar, and any nest of tensors.
        batch: Tuple of nests of tensors, samples first: what `loss_function` is called with.
        variables: List of the `keras.Variable`s to differentiate by.
        scale_loss: The optimizer's `scale_loss`. Gradients are taken of the scaled loss and then
            unscaled.
        summarise: A function `summarise(*batch, loss, aux)` that updates metrics and returns the
            logs, or `None`. It is called in the first evaluation.
        window_share: The batch's share of the batches that an update is made of, a number or a
            scalar tensor.
        kinds: The `LossKinds` of the model.
        numbers: List of scalar tensors that the loss may depend on besides, those of a `Schedule`.
    """

    def __init__(
        self,
        loss_function,
        batch,
        variables,
        scale_loss,
        summarise=None,
        window_share=1.0,
        kinds=None,
        numbers=(),
    ):
        self.variables = variables
        self.loss = None
        self.aux = None
        self.logs = None
        self.updates = []
        self.missing = [True] * len(variables)
        self.count = 0
        self.divisor = None  # of the loss, see `WholeBatchLosses`
        self.is_a_sum = False
        self.has_several_divisors = False
        self._loss_function = loss_function
        self._batch = batch
        self._scale_loss = scale_loss
        self._summarise = summarise
        self._window_share = window_share
        self._kinds = kinds or LossKinds()
        self._numbers = numbers
        self._others_read = {}  # what the loss read besides the variables, by id
        self._random_numbers = backend.snapshots.SameRandomNumbers()

    def __call__(self, point):
        """Gives `(loss, gradients)` at `point`, a list of tensors shaped like the variables.

        The gradients are dense tensors, zeros where the loss does not depend on a variable. Under
        a distribution strategy loss and gradients are those of the whole batch, all replicas.
        """
        loss, gradients = self.raw(point)
        gradients = [densify(g, p) for g, p in zip(gradients, point, strict=True)]
        return backend.updates.sum_over_replicas(loss, gradients)

    def forward(self, point):
        """Gives the loss at `point`, without its gradients.

        Before the first evaluation it takes that one's part: its loss, metrics and layer state are
        the ones kept.
        """
        with self._random_numbers, OverlayScope() as scope:
            loss, aux, logs, _ = self._compute(point, differentiate=False)
        self._keep_first(loss, aux, logs, scope.updates)
        return backend.updates.sum_over_replicas(loss, [])[0]

    def while_loop(self, cond, body, loop_vars):
        """Gives `keras.ops.while_loop` of a flat sequence of tensors, as a list.

        The body may evaluate; the first evaluation has to stand before the loop. What cond and body
        assign to variables does not leave the loop.
        """
        return list(backend.loops.while_loop(cond, body, tuple(loop_vars)))

    def fingerprint(self):
        """Returns a whole number that tells the batch, and what else the loss depends on but the
        point, from any other; see `fingerprint.py`. `forward` has to stand before it."""
        others = [*(v.value for v in self._others_read.values()), *self._numbers]
        others = [ops.reshape(value, (1, -1)) for value in others]
        return fingerprint(self._batch) + 3 * fingerprint(others)

    @property
    def is_repeatable(self):
        """Whether the next step's evaluation at the same point gives the same: the forward pass has
        drawn no random numbers, and changed nothing that it has read."""
        changed = {id(variable) for variable, _ in self.updates}
        drawn = any(is_seed_state(variable) for variable, _ in self.updates)
        read = {*self._others_read, *(id(v) for v in self.variables)}
        return not (drawn or self._random_numbers.were_drawn() or changed & read)

    @property
    def has_measured_parts(self):
        """Whether there are measured parts to show: not where a batch is computed at once."""
        return False

    def raw(self, point):
        """Gives `(loss, gradients)` of this replica, as the backend made them, `None` included."""
        with self._random_numbers, OverlayScope() as scope:
            loss, aux, logs, gradients = self._compute(point)
        gradients = unscale(gradients, self._scale_loss)
        self._keep_first(loss, aux, logs, scope.updates)
        self.count += 1
        self.missing = [m and g is None for m, g in zip(self.missing, gradients, strict=True)]
        return loss, gradients

    def _keep_first(self, loss, aux, logs, updates):
        if self.loss is None:
            self.loss, self.aux, self.logs, self.updates = loss, aux, logs, updates

    def _compute(self, point, differentiate=True):
        """Gives `(loss, aux, logs, gradients)`, those of the scaled loss."""
        is_whole = isinstance(self._window_share, float)  # then a sum is what it is
        try:
            sums = ALL if is_whole else self._sums_of_samples(point)
            losses = WholeBatchLosses(1.0, window_share=self._window_share, sums=sums)
            *result, divisor = self._part(point, self._batch, losses, differentiate=differentiate)
        except UnknownSumError:
            self._kinds.have_sums = True
            return self._compute(point, differentiate)
        self._note_weight(divisor, losses.is_a_sum, losses.have_several_divisors)
        return result

    def _sums_of_samples(self, point):
        """Which `sum` losses are ones over samples; `None` as long as none has been met."""
        if not self._kinds.have_sums:
            return None
        try:
            tensors, _ = Microbatches.flatten(self._batch)
        except ValueError:
            return ALL  # a batch that cannot be taken apart, as of graphs
        return self._sample_dimensions(point).of_sums if tensors else ALL

    def _sample_dimensions(self, point):
        def run(batch, losses):
            with OverlayScope(zip(self.variables, point, strict=True)), losses.correcting():
                return self._loss_function(*batch)

        return SampleDimensions(run, *Microbatches.flatten(self._batch))

    def _note_weight(self, divisor, is_a_sum, has_several_divisors):
        """Notes what the first evaluation finds; a later one may be in a loop, whose tensors do not
        leave it."""
        if self.loss is None:
            self.divisor, self.is_a_sum = divisor, is_a_sum
            self.has_several_divisors = has_several_divisors

    def _part(self, point, batch, losses, share=None, differentiate=True):
        """Gives `(loss, aux, logs, gradients, divisor)` of a part of the batch; the gradients are
        those of the loss times `share`, or an empty list."""

        def objective():
            with losses.correcting():
                loss, aux = self._loss_function(*batch)
            weighted = loss if share is None else loss * ops.cast(share, loss.dtype)
            return self._scale_loss(weighted), (loss, aux, losses.divisor)

        if differentiate:
            (_, results), gradients = value_and_grad_at(objective, self.variables)(point)
        else:
            with OverlayScope(zip(self.variables, point, strict=True)) as scope:
                scope.keeps_assigned = KEEPS_ASSIGNED
                (_, results), gradients = objective(), []
            self._others_read.update(scope.others_read)
            for variable, value in scope.updates:
                variable.assign(value)
        loss, aux, divisor = results
        if self._summarise is None:
            return loss, aux, None, gradients, divisor
        logs = self._summarise(*batch, loss, aux) if self.loss is None else None
        return loss, None, logs, gradients, divisor


def unscale(gradients, scale_loss):
    """Divides gradients by the factor that `scale_loss` multiplies a loss with."""
    return _scaled(gradients, scale_loss, ops.divide)


def rescale(gradients, scale_loss):
    """Undoes `unscale`: gives the gradients that an optimizer which unscales them expects."""
    return _scaled(gradients, scale_loss, ops.multiply)


def _scaled(gradients, scale_loss, operation):
    one = ops.ones(())
    scale = scale_loss(one)
    if scale is one:
        return gradients
    return [None if g is None else operation(g, ops.cast(scale, g.dtype)) for g in gradients]
