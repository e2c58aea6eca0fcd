"""`LazyMomentum`: gradient descent with momentum that updates the rows of a batch alone."""

import keras

from keras_cool.optimizer_roles import RowWise


@keras.saving.register_keras_serializable(package="keras_cool")
class LazyMomentum(keras.optimizers.SGD, RowWise):
    r"""Momentum for embedding tables: a step updates the rows that the batch read, and no others.

    It is for `model.compile(..., row_sparse=True)` and for gradients in closed form that are
    `keras_cool.RowSparse`. On the rows of the batch it is `keras.optimizers.SGD` with this
    momentum. A row that the batch did not read stays as it is, and so does its velocity, with
    which plain momentum goes on to move it. Variables with dense gradients are updated as by SGD.

    Example:

    >>> import keras_cool as kc
    >>> optimizer = kc.optimizers.LazyMomentum(0.1, momentum=0.8)
    >>> optimizer.momentum
    0.8

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`. Defaults to 0.01.
        momentum: Float between 0 and 1. Defaults to 0.9.
        **kwargs: As for `keras.optimizers.SGD`, `nesterov` among them. `weight_decay`, `use_ema`
            and `gradient_accumulation_steps` act on all rows: with one of them it is SGD.

    Reference:
        Polyak, 1964, "Some methods of speeding up the convergence of iteration methods", equation
        (9), on the rows of a batch.
    """

    def __init__(self, learning_rate=0.01, momentum=0.9, **kwargs):
        super().__init__(learning_rate, momentum, **kwargs)

    def update_rows(self, gradient, rows, slots, learning_rate):
        """Returns rows of a table and their velocities after a step.

        Args:
            gradient: Tensor, shape `(rows, ...)`, the gradient by these rows.
            rows: Tensor of that shape, the rows.
            slots: List of such tensors, their velocities.
            learning_rate: Scalar tensor.
        """
        step = -learning_rate * gradient
        velocities = [self.momentum * v + step for v in slots]  # none without momentum
        if not velocities:
            return rows + step, slots
        (velocity,) = velocities
        return rows + (self.momentum * velocity + step if self.nesterov else velocity), velocities
