"""Gradients of a loss at any point, without moving a variable: `Evaluation`."""

from keras import ops

from keras_cool.gradients import densify, value_and_grad_at
from keras_cool.keras_private import OverlayScope
from keras_cool.training.backend import SameRandomNumbers, sum_over_replicas, while_loop


class Evaluation:
    """Evaluates one loss and its gradients at given values of the trainable variables.

    The loss is computed in a scope that maps the variables to the point, so no variable changes.
    Every evaluation starts from the same state (seeds, layer state, metrics). What the first one
    assigns to it is kept in `updates`, pairs of variables and values, for the caller to assign once
    the step is decided; what the later ones assign is dropped.

    Args:
        loss_function: A function without arguments that returns `(loss, aux)`: the loss to
            differentiate, a scalar, and any nest of tensors.
        variables: List of the `keras.Variable`s to differentiate by.
        scale_loss: The optimizer's `scale_loss`. Gradients are taken of the scaled loss and then
            unscaled.
    """

    def __init__(self, loss_function, variables, scale_loss):
        self.variables = variables
        self.loss = None
        self.aux = None
        self.updates = []
        self.missing = [True] * len(variables)
        self.count = 0
        self._loss_function = loss_function
        self._scale_loss = scale_loss
        self._random_numbers = SameRandomNumbers()

    def __call__(self, point):
        """Gives `(loss, gradients)` at `point`, a list of tensors shaped like the variables.

        The gradients are dense tensors, zeros where the loss does not depend on a variable. Under
        a distribution strategy loss and gradients are those of the whole batch, all replicas.
        """
        loss, gradients = self.raw(point)
        gradients = [densify(g, p) for g, p in zip(gradients, point, strict=True)]
        return sum_over_replicas(loss, gradients)

    def forward(self, point):
        """Gives the loss at `point`, without its gradients.

        Before the first evaluation it takes that one's part: its loss, metrics and layer state are
        the ones kept.
        """
        with self._random_numbers, OverlayScope(zip(self.variables, point, strict=True)) as scope:
            loss, aux = self._loss_function()
        self._keep_first(loss, aux, scope.updates)
        return sum_over_replicas(loss, [])[0]

    def while_loop(self, cond, body, loop_vars):
        """Gives `keras.ops.while_loop` of a flat sequence of tensors, as a list.

        The body may evaluate; the first evaluation has to stand before the loop. What cond and body
        assign to variables does not leave the loop.
        """
        return list(while_loop(cond, body, tuple(loop_vars)))

    def raw(self, point):
        """Gives `(loss, gradients)` of this replica, as the backend made them, `None` included."""

        def objective():
            loss, aux = self._loss_function()
            return self._scale_loss(loss), (loss, aux)

        evaluate = value_and_grad_at(objective, self.variables)
        with self._random_numbers, OverlayScope() as scope:
            (_, (loss, aux)), gradients = evaluate(point)
        gradients = unscale(gradients, self._scale_loss)
        self._keep_first(loss, aux, scope.updates)
        self.count += 1
        self.missing = [m and g is None for m, g in zip(self.missing, gradients, strict=True)]
        return loss, gradients

    def _keep_first(self, loss, aux, updates):
        if self.loss is None:
            self.loss, self.aux, self.updates = loss, aux, updates


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
