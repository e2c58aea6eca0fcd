"""`LazyAdam`: Adam that updates the rows of a batch alone."""

import keras
from keras import ops

from keras_cool.optimizer_roles import RowWise


@keras.saving.register_keras_serializable(package="keras_cool")
class LazyAdam(keras.optimizers.Adam, RowWise):
    r"""Adam for embedding tables: a step updates the rows that the batch read, and no others.

    It is for `model.compile(..., row_sparse=True)` and for gradients in closed form that are
    `keras_cool.RowSparse`. On the rows of the batch it is `keras.optimizers.Adam`, with the bias
    correction of all steps so far. A row that the batch did not read stays as it is, and so do its
    moments, which decay in Adam and move it. The results differ from Adam's for that reason, and
    the time of a step does not depend on the number of rows. Variables with dense gradients are
    updated as by Adam.

    The arguments are those of `keras.optimizers.Adam`. `weight_decay`, `use_ema` and
    `gradient_accumulation_steps` act on all rows: with one of them it is Adam.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> inputs = keras.Input((3,), dtype="int32")
    >>> outputs = keras.layers.Dense(1)(keras.layers.Embedding(1000, 4)(inputs))
    >>> model = kc.Model(inputs, outputs)
    >>> model.compile(kc.optimizers.LazyAdam(0.01), loss="mse", row_sparse=True)
    >>> x, y = keras.ops.ones((8, 3), "int32"), keras.ops.ones((8, 3, 1))
    >>> history = model.fit(x, y, verbose=0)

    Reference:
        `torch.optim.SparseAdam` and `tfa.optimizers.LazyAdam` have the same meaning. Kingma and
        Ba, 2015, "Adam: A Method for Stochastic Optimization", algorithm 1.
    """

    def update_rows(self, gradient, rows, slots, learning_rate):
        """Returns rows of a table and their moments after a step.

        Args:
            gradient: Tensor, shape `(rows, ...)`, the gradient by these rows.
            rows: Tensor of that shape, the rows.
            slots: List of such tensors, their moments.
            learning_rate: Scalar tensor.
        """
        m, v, *largest = slots
        step = ops.cast(self.iterations + 1, rows.dtype)
        powers = [ops.power(ops.cast(b, rows.dtype), step) for b in (self.beta_1, self.beta_2)]
        rate = learning_rate * ops.sqrt(1 - powers[1]) / (1 - powers[0])
        m = m + (gradient - m) * (1 - self.beta_1)
        v = v + (ops.square(gradient) - v) * (1 - self.beta_2)
        largest = [ops.maximum(hat, v) for hat in largest]
        scale = ops.sqrt(largest[0] if largest else v) + self.epsilon
        return rows - rate * m / scale, [m, v, *largest]
