"""`squared_residuals`, by which a loss hands over its residuals; and their Jacobian."""

from contextlib import ExitStack

from keras import ops

from keras_cool import backend
from keras_cool.backend import vectors
from keras_cool.float64 import measured_dtype
from keras_cool.gradients import densify, value_and_grad, value_and_grad_at
from keras_cool.keras_private import OverlayScope, SquaringLosses

ROWS = 128  # of a Jacobian, computed at a time
FEW = 256  # so many columns are computed one by one if the number of rows is not known


def squared_residuals(residuals):
    r"""Squares residuals, and hands them over to an optimizer that asks for them.

    `LevenbergMarquardt` minimises sums of squared residuals, and needs the residuals themselves. A
    loss of one's own hands them over by this function in place of `keras.ops.square`. What it does
    with the squares is to be linear: means, sums, and factors that do not depend on the weights.
    The losses and regularisers of Keras that are sums of squares (`"mse"`, `"msle"`,
    `"squared_hinge"`, `"l2"`) do so by themselves.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> def loss(y_true, y_pred):
    ...     return keras.ops.mean(kc.squared_residuals(y_true - y_pred), axis=-1)
    >>> float(loss(keras.ops.ones((1, 2)), keras.ops.zeros((1, 2)))[0])
    1.0

    Args:
        residuals: Floating-point tensor of any shape.

    Returns:
        Their squares, a tensor of the same shape and dtype.
    """
    return SquaringLosses.square(ops.convert_to_tensor(residuals))


def linearised(loss, variables, point, check):
    r"""Returns the residuals of a loss and their Jacobian.

    Of the \(r_i\) that the loss squares, with the factors \(c_i\) of their squares in it, the loss
    is \(\sum_i c_i r_i^2\). The residuals that are returned are the \(\sqrt{c_i} r_i\).

    The Jacobian takes a reverse pass for each residual, or for each weight one through the reverse
    pass, whichever are fewer.

    Args:
        loss: A function of a context, in which it computes the loss, a scalar tensor.
        variables: List of `keras.Variable`s that it reads.
        point: List of tensors, their values.
        check: A function of the numbers of residuals and of entries of the point, called before the
            Jacobian is computed.

    Returns:
        A vector of as many entries as there are residuals, and a matrix with a row for each and a
        column for each entry of the point, in the dtype that is measured in.
    """
    dtype = measured_dtype()
    again = backend.snapshots.SameRandomNumbers()

    def squares_at(squares, mapping):
        with again, OverlayScope(mapping):
            return loss(SquaringLosses(squares))

    where = list(zip(variables, point, strict=True))
    found = _Squares()
    squares_at(found, where)
    if not found.residuals:
        raise ValueError(
            "The loss has no residuals, whose squares LevenbergMarquardt minimises. Compile with "
            "loss='mse', or hand them over in a loss of your own: write "
            "`keras_cool.squared_residuals(y_true - y_pred)` for their squares. For a loss that is "
            "no sum of squares use keras_cool.optimizers.LBFGS."
        )
    _check_no_other_terms(lambda: squares_at(_Squares(are_constant=True), ()), variables, point)
    factors = _factors(lambda squares: squares_at(squares, where), found.residuals)
    roots = ops.sqrt(vectors.flattened(factors, dtype))

    vector = vectors.flattened(point, dtype)
    rows, columns = roots.shape[0], vector.shape[0]
    check(rows, columns)
    with ExitStack() as scopes:  # open until all passes are done, for layers that compute twice

        def residuals(vector):
            moved = vectors.unflattened(vector, point)
            scopes.enter_context(OverlayScope(zip(variables, moved, strict=True)))
            squares = _Squares()
            squares_at(squares, ())
            return roots * vectors.flattened(squares.residuals, dtype)

        if columns < (FEW if rows is None else rows):
            value, jacobian = _by_columns(residuals, vector, ops.zeros_like(roots))
        else:
            value, _, jacobian = backend.gradients.jacobian(
                lambda vector: (residuals(vector), ()), vector, ROWS
            )
    return value, jacobian


def _check_no_other_terms(loss, variables, point):
    """Raises a `ValueError` if a loss depends on the variables even where its squares do not."""
    _, gradients = value_and_grad_at(lambda: (loss(), ()), variables)(point)
    if any(g is not None for g in gradients):
        raise ValueError(
            "The loss has other terms than the squares of its residuals. LevenbergMarquardt is for "
            "sums of squares, such as loss='mse' with 'l2' regularisers. Square all that a loss of "
            "your own adds up by `keras_cool.squared_residuals`, or use "
            "keras_cool.optimizers.LBFGS."
        )


def _factors(loss, residuals):
    """Returns the factors of the squares in a loss, the derivatives by these.

    Raises a `ValueError` if they depend on the squares: then the loss is not linear in those.
    """
    of_offsets = value_and_grad(lambda offsets: loss(_Squares(offsets)))

    def total(offsets):
        _, factors = of_offsets(offsets)
        factors = [densify(c, o) for c, o in zip(factors, offsets, strict=True)]
        return sum(ops.sum(c) for c in factors), factors

    offsets = [ops.zeros_like(r) for r in residuals]
    (_, factors), changes = value_and_grad(total, has_aux=True)(offsets)
    if any(c is not None for c in changes):
        raise ValueError(
            "The loss is not linear in the squares of its residuals: a root of their mean, say, or "
            "a quotient. LevenbergMarquardt minimises sums and means of squares. Train on the mean "
            "of the squares itself, whose minimum is often the same, or use "
            "keras_cool.optimizers.LBFGS."
        )
    return factors


def _by_columns(function, vector, zeros):
    """Value and Jacobian of a function, from the Jacobian of `u -> J^T u`, which is `J^T`."""

    def product(tensors, u):
        value = function(tensors[0])
        return ops.sum(u * value), value

    def transposed(u):
        of_vector = value_and_grad(lambda tensors: product(tensors, u), has_aux=True)
        (_, value), (gradient,) = of_vector([vector])
        return densify(gradient, vector), value

    _, value, columns = backend.gradients.jacobian(transposed, zeros, ROWS)
    return value, ops.transpose(columns)


class _Squares:
    """Squares residuals, with offsets to differentiate by or as constants, and notes them."""

    def __init__(self, offsets=None, are_constant=False):
        self.residuals = []
        self._offsets = offsets
        self._are_constant = are_constant

    def __call__(self, residuals):
        self.residuals.append(residuals)
        squares = residuals * residuals
        if self._are_constant:
            return ops.stop_gradient(squares)
        return (
            squares if self._offsets is None else squares + self._offsets[len(self.residuals) - 1]
        )
