"""Gradients of a loss at any point, without moving a variable: `Evaluation`."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

from keras import ops

from keras_cool import backend
from keras_cool.backend.row_sparse import RowSparse
from keras_cool.gradients import KEEPS_ASSIGNED, densify, value_and_grad_at
from keras_cool.keras_private import (
    GatheringRows,
    OverlayScope,
    is_seed_state,
    without_gradients,
)
from keras_cool.training.fingerprint import fingerprint
from keras_cool.training.loss_shares import (
    ALL,
    BatchWeight,
    LossKinds,
    LossShare,
    SampleDimensions,
    UnknownNormaliserError,
    UnknownSumError,
)
from keras_cool.training.microbatches import Part, in_microbatches, take_apart
from keras_cool.training.residuals import linearised


class Objective(NamedTuple):
    """What is computed on a batch, or on a part of one.

    Attributes:
        forward: A function `forward(*part)` that returns the outputs, any nest of tensors.
        loss: A function `loss(*part, outputs)` that returns the loss to differentiate, a scalar.
        summarise: A function `summarise(*part, outputs, loss)` that updates metrics and returns
            the logs, or `None`. It is called in the first evaluation.
        aux: A function of the outputs that returns what the caller wants of them, or `None`.
        closed_form: A function `closed_form(*part)` that returns loss and gradients, as a
            `closed_form_gradient` does, or `None`: automatic differentiation of `loss` gives them.
        head: A function `head(*batch, outputs)` of the outputs of the whole batch, which gives
            what the three above take for the outputs; or `None`: they take the outputs.
    """

    forward: Callable
    loss: Callable
    summarise: Callable | None = None
    aux: Callable | None = None
    closed_form: Callable | None = None
    head: Callable | None = None


class Evaluation:
    """Evaluates one loss and its gradients at given values of the trainable variables.

    The loss is computed in a scope that maps the variables to the point, so no variable changes.
    Every evaluation starts from the same state (seeds, layer state, metrics). What the first one
    assigns to it is kept in `updates`, pairs of variables and values, for the caller to assign once
    the step is decided; what the later ones assign is dropped.

    A batch is computed at once, or one micro-batch after another. If at once, its parts are handed
    on as they are: outputs of any form, `None` for a missing gradient, sparse gradients.

    Args:
        objective: An `Objective`.
        batch: Tuple of nests of tensors, samples first: what its functions are called with.
        variables: List of the `keras.Variable`s to differentiate by.
        scale_loss: The optimizer's `scale_loss`. Gradients are taken of the scaled loss and then
            unscaled.
        microbatch_size: Integer, the number of samples that are computed at a time, or `None`: all.
        window_share: The batch's share of the batches that an update is made of, a number or a
            scalar tensor.
        kinds: The `LossKinds` of the model.
        numbers: List of scalar tensors that the loss may depend on besides, those of a `Schedule`.
        events: The `StepEvents` that are told of the micro-batches of the first evaluation, or
            `None`.
        tables: List of the variables whose gradient is to be `RowSparse` where it can.
    """

    def __init__(
        self,
        objective,
        batch,
        variables,
        scale_loss,
        microbatch_size=None,
        window_share=1.0,
        kinds=None,
        numbers=(),
        events=None,
        tables=(),
    ):
        self.variables = variables
        self.loss = None
        self.aux = None
        self.logs = None
        self.updates = []
        self.weight = BatchWeight()
        self.missing = [True] * len(variables)
        self.count = 0
        self.observed = None  # what callbacks are shown as the gradients, if not the estimate
        self.end = (
            None  # the point that the step is to lead to, if `p - rate * estimate` is too rough
        )
        self._objective = objective
        self._batch = batch
        self._scale_loss = scale_loss
        self._microbatch_size = microbatch_size
        self._window_share = window_share
        self._kinds = kinds or LossKinds()
        self._numbers = numbers
        self._events = events
        self._tables = tables
        self._others_read = {}  # what the loss read besides the variables, by id
        self._random_numbers = backend.snapshots.SameRandomNumbers()

    def __call__(self, point, by_rows=False):
        """Returns `(loss, gradients)` at `point`, a list of tensors shaped like the variables.

        The gradients are dense tensors, zeros where the loss does not depend on a variable, but
        `RowSparse` ones if they are asked for `by_rows`. Under a distribution strategy loss and
        gradients are those of the whole batch, all replicas.
        """
        loss, gradients = self.of_replica(point)
        gradients = [
            g if by_rows and isinstance(g, RowSparse) else densify(g, p)
            for g, p in zip(gradients, point, strict=True)
        ]
        return backend.updates.sum_over_replicas(loss, gradients)

    def of_each_part(self, point, displace):
        """Returns `(loss, gradients)`, with each micro-batch's gradients taken at a point of its
        own: two evaluations. The loss is that at `point`.

        Args:
            point: List of tensors shaped like the variables.
            displace: A function `displace(point, gradients)` that returns the point at which the
                gradients of a micro-batch count. `gradients` are its own at `point`, dense tensors,
                times its share of the samples. On replicas each has micro-batches of its own.
        """
        loss, gradients = self.of_replica(point, displace)
        self.count += 1
        gradients = [densify(g, p) for g, p in zip(gradients, point, strict=True)]
        return backend.updates.sum_over_replicas(loss, gradients)

    def of_replica(self, point, displace=None):
        """Returns `(loss, gradients)` of this replica, as the backend makes them, some `None`."""
        with self._random_numbers, OverlayScope() as scope:
            part = self._evaluated(point, displace=displace)
        gradients = unscale(part.gradients, self._scale_loss)
        if part.measured:
            self._tell(part.measured, gradients)
        self._keep_first(part, scope.updates)
        self.count += 1
        self.missing = [m and g is None for m, g in zip(self.missing, gradients, strict=True)]
        return part.loss, gradients

    def forward(self, point):
        """Returns the loss at `point`, without its gradients.

        Before the first evaluation it takes that one's part: its loss, metrics and layer state are
        the ones kept.
        """
        with self._random_numbers, OverlayScope() as scope:
            part = self._evaluated(point, differentiate=False)
        self._keep_first(part, scope.updates)
        return backend.updates.sum_over_replicas(part.loss, [])[0]

    def of_residuals(self, point, reduce, like, check):
        """Returns what a function gives of the residuals at `point`, a list of tensors, added up
        over micro-batches and replicas. An evaluation has to stand before it.

        The loss is the sum of the squares of the residuals, those that it squares by
        `squared_residuals` or by the losses and regularisers of Keras.

        Args:
            point: List of tensors shaped like the variables.
            reduce: A function `reduce(residuals, jacobian)` of a vector and of the matrix of its
                derivatives by the entries of the point, one after another.
            like: List of tensors shaped like what it returns.
            check: A function of the number of residuals, or `None` if that is not known, and of the
                number of entries of the point. It is called before the Jacobian is computed.

        Raises:
            ValueError: If the loss has no residuals, or other terms than their squares.
        """

        def part(point, batch, losses, share):
            def loss(squaring):
                losses.begin_again()
                with squaring:
                    loss = self._loss_of(batch, losses)[0]
                return loss if share is None else loss * ops.cast(share, loss.dtype)

            sums = reduce(*linearised(loss, self.variables, point, check))
            return Part(ops.zeros(()), None, None, sums, losses.weight._replace(divisor=None), [])

        with self._random_numbers, OverlayScope():
            sums = self._compute(point, part, like).gradients
        return backend.updates.sum_over_replicas(ops.zeros(()), sums)[1]

    @property
    def is_whole(self):
        """Whether the batch is computed at once, and by one replica."""
        return self._microbatch_size is None and backend.updates.number_of_replicas() == 1

    def while_loop(self, cond, body, loop_vars):
        """Returns `keras.ops.while_loop` of a flat sequence of tensors, as a list.

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

    def _keep_first(self, part, updates):
        if self.loss is None:
            self.loss, self.aux, self.logs, self.updates = part.loss, part.aux, part.logs, updates
            self.weight = part.weight

    def _tell(self, measured, gradients):
        """Tells the callbacks what they measured of the micro-batches, those of all replicas, whose
        gradients are parts of a sum."""
        *measured, parts = measured
        scale = self._scale_loss(ops.ones(()))
        measured = [m / scale**2 for m in measured]
        parts = ops.cast(parts, "float32")
        parts, measured = backend.updates.sum_over_replicas(parts, measured)
        replicas = backend.updates.number_of_replicas()
        samples = ops.shape(take_apart(self._batch)[0][0])[0] * replicas
        present = [g for g in gradients if g is not None]
        present = backend.updates.gradients_of_all_replicas(present)
        self._events.microbatches([m * replicas for m in measured], parts, samples, present)

    def _evaluated(self, point, differentiate=True, displace=None):
        """Returns the `Part` that is the whole batch; what it assigns goes to the present scope."""
        part = partial(self._part, differentiate=differentiate, displace=displace)
        return self._compute(point, part, like=point if differentiate else ())

    def _compute(self, point, part, like=()):
        """Returns the `Part` that is the whole batch.

        Args:
            point: List of tensors.
            part: A function `part(point, batch, losses, share)` that returns the `Part` of one
                micro-batch, or of the whole batch: `share=None`.
            like: Tensors shaped like the gradients.
        """
        try:
            return self._computed(point, part, like)
        except UnknownSumError:
            self._kinds.have_sums = True
        except UnknownNormaliserError:
            if self._kinds.have_normalisers:
                raise
            self._kinds.have_normalisers = True
        return self._compute(point, part, like)

    def _computed(self, point, part, like):
        if self._microbatch_size is None:
            is_alone = isinstance(self._window_share, float)  # then a sum is what it is
            sums = ALL if is_alone else self._sums_of_samples(point)
            losses = LossShare(1.0, window_share=self._window_share, sums=sums)
            return part(point, self._batch, losses, None)

        tensors, pack = take_apart(self._batch)
        totals = self._normalisers(point, tensors, pack) if self._kinds.have_normalisers else []
        sums = self._sums_of_samples(point)

        def compute(microbatch, share):
            losses = LossShare(share, totals, self._window_share, sums)
            return part(point, microbatch, losses, share)

        return in_microbatches(
            compute,
            tensors,
            pack,
            self._microbatch_size,
            like=like,
            are_rows=partial(self._are_rows, point),
        )

    def _part(
        self,
        point,
        batch,
        losses,
        share,
        differentiate=True,
        displace=None,
        of_given=None,
        given=(),
    ):
        """Returns a `Part`: of `forward` and the loss, or of `of_given(batch, losses, *given)` in
        their place, without logs then, and with the gradients by the tensors `given` behind those
        by the point."""
        loss_of = of_given or self._loss_of

        def objective(*given):
            losses.begin_again()  # of an abstract run
            loss, outputs = loss_of(batch, losses, *given)
            weighted = loss if share is None else loss * ops.cast(share, loss.dtype)
            return self._scale_loss(weighted), (loss, outputs, losses.weight.divisor)

        gradients_at = value_and_grad_at(objective, self.variables, self._tables)
        if self._objective.closed_form is not None:
            gradients_at = partial(self._in_closed_form, batch, share)
        if differentiate:
            repeatable = backend.snapshots.SameRandomNumbers() if displace else nullcontext()
            with repeatable, OverlayScope() as scope:
                (_, results), gradients = gradients_at([*point, *given])
        else:
            at_point = zip(self.variables, point, strict=True)
            with without_gradients(), OverlayScope(at_point) as scope:
                scope.keeps_assigned = KEEPS_ASSIGNED
                if self._objective.closed_form is not None:
                    (_, results), _ = gradients_at(point)
                else:
                    _, results = objective(*given)
            gradients = []
            self._others_read.update(scope.others_read)
        loss, outputs, divisor = results
        is_first = self.loss is None
        aux = self._objective.aux
        measured = []
        if share is not None and differentiate and is_first and self._events is not None:
            measured = self._events.measured(gradients, share)
        if displace is not None:
            gradients = [densify(g, p) for g, p in zip(gradients, point, strict=True)]
            moved = displace(point, unscale(gradients, self._scale_loss))
            losses.begin_again()
            with repeatable, OverlayScope():  # of which nothing is kept
                _, gradients = gradients_at(moved)
        for variable, value in scope.updates:
            variable.assign(value)
        return Part(
            loss,
            None if aux is None else aux(outputs),
            self._summarised(batch, outputs, loss) if is_first and not of_given else None,
            gradients,
            losses.weight._replace(divisor=divisor),
            measured,
        )

    def _loss_of(self, batch, losses):
        with losses.correcting():
            return self._loss_of_outputs(batch, self._objective.forward(*batch))

    def _loss_of_outputs(self, batch, outputs):
        if self._objective.head is not None:
            outputs = self._objective.head(*batch, outputs)
        return self._objective.loss(*batch, outputs), outputs

    def _summarised(self, batch, outputs, loss):
        summarise = self._objective.summarise
        return None if summarise is None else summarise(*batch, outputs, loss)

    def _in_closed_form(self, batch, share, point):
        """What `value_and_grad_at` of the objective gives, from the model's own gradient."""
        gathering = GatheringRows(lambda table, ids: backend.rows.gathered(table.value, ids))
        with gathering, OverlayScope(zip(self.variables, point, strict=True)) as scope:
            scope.keeps_assigned = KEEPS_ASSIGNED
            loss, gradients = self._objective.closed_form(*batch)
        for variable, value in scope.updates:
            variable.assign(value)
        replicas = backend.updates.number_of_replicas()  # whose losses are added up
        if replicas > 1:
            gradients = [
                densify(g, p) if isinstance(g, RowSparse) else g
                for g, p in zip(gradients, point, strict=True)
            ]
        if share is not None or replicas > 1:
            weight = (1.0 if share is None else share) / replicas
            gradients = _by_factor(gradients, weight, ops.multiply)
        loss = loss / replicas if replicas > 1 else loss
        return (None, (loss, None, None)), rescale(gradients, self._scale_loss)

    def _normalisers(self, point, tensors, pack):
        """The losses' normalisers, summed over the batch: a forward pass, of which a compiler
        leaves what they depend on."""

        def body(state, microbatch, share):
            losses = LossShare(share, sums=ALL)
            with without_gradients(), OverlayScope(zip(self.variables, point, strict=True)):
                self._loss_of(pack(microbatch), losses)
            return losses.normalisers, [], [], [], []

        return backend.loops.over_microbatches(body, list, tensors, self._microbatch_size)[0]

    def _sums_of_samples(self, point):
        """Which `sum` losses are ones over samples; `None` as long as none has been met."""
        if not self._kinds.have_sums:
            return None
        try:
            tensors, _ = take_apart(self._batch)
        except ValueError:
            return ALL  # a batch that cannot be taken apart, as of graphs
        return self._sample_dimensions(point).of_sums if tensors else ALL

    def _are_rows(self, point, tensors):
        """Whether each of the tensors beside the loss of a micro-batch has the samples as its first
        dimension. It is found out once for tensors of these shapes."""
        known, shapes = self._kinds.are_rows, tuple(tuple(t.shape) for t in tensors)
        if shapes not in known:
            apart = backend.snapshots.SameRandomNumbers()
            with apart:  # notes where the random numbers are
                pass
            with apart:  # and leaves them there
                known[shapes] = self._sample_dimensions(point).of_aux
        return known[shapes]

    def _sample_dimensions(self, point):
        def run(batch, losses):
            with without_gradients(), OverlayScope(zip(self.variables, point, strict=True)):
                _, outputs = self._loss_of(batch, losses)
            return self._objective.aux(outputs) if self._objective.aux else None

        return SampleDimensions(run, *take_apart(self._batch))


def unscale(gradients, scale_loss):
    """Divides gradients by the factor that `scale_loss` multiplies a loss with."""
    return _scaled(gradients, scale_loss, ops.divide)


def rescale(gradients, scale_loss):
    """Undoes `unscale`: returns the gradients that an optimizer which unscales them expects."""
    return _scaled(gradients, scale_loss, ops.multiply)


def _scaled(gradients, scale_loss, operation):
    one = ops.ones(())
    scale = scale_loss(one)
    if scale is one:
        return gradients
    return _by_factor(gradients, scale, operation)


def _by_factor(gradients, factor, operation):
    def scaled(tensor):
        return operation(tensor, ops.cast(factor, tensor.dtype))

    return [
        g.with_values(scaled(g.values))
        if isinstance(g, RowSparse)
        else None
        if g is None
        else scaled(g)
        for g in gradients
    ]
