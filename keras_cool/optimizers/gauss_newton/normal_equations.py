"""`NormalEquations`: a sum of squared residuals, linearised at a point."""

from typing import Any

from keras import ops

from keras_cool.backend import scalars, vectors
from keras_cool.optimizers.full_batch import check_matrix


class NormalEquations:
    r"""The step that lowers a linearised sum of squares, damped.

    With the residuals \(r\) and their Jacobian \(J\) at a point, the step \(h\) minimises
    \(\|r + J h\|^2 + \mu \|h\|^2\). It solves the normal equations
    \((J^T J + \mu) h = -J^T r\), or, where there are fewer residuals than weights,
    \(h = -J^T (J J^T + \mu)^{-1} r\), which is the same.

    Args:
        evaluate: As for `estimate_gradient`.
        point: Vector.
        like: List of tensors, of whose shapes and dtypes a point is.
        dtype: String, the dtype of vectors and numbers.
    """

    def __init__(self, evaluate, point, like, dtype):
        size = point.shape[0]
        zeros = ops.broadcast_to(ops.zeros((), dtype), (size, size))
        found = evaluate.of_residuals(
            vectors.unflattened(point, like),
            lambda r, jacobian: _reduced(r, jacobian, evaluate.is_whole),
            like=[zeros, point, point, zeros[0, 0]],
            check=lambda rows, columns: _check_size(rows, columns, evaluate.is_whole, dtype),
        )
        self._matrix, self._half_gradient, diagonal, squares = found[:4]
        self._jacobian, self._residuals = found[4:] or (None, None)
        largest, steepest, squares = scalars.known(
            vectors.largest(diagonal), vectors.largest(self._half_gradient), squares
        )
        self.largest: Any = largest  # entry of the diagonal of J^T J, a scale for the damping
        self.steepest: Any = 2 * steepest  # entry of the gradient
        self.squares: Any = squares  # the sum of the squares

    def step(self, damping):
        """Returns the step, a vector, and by how much it lowers the linearised sum of squares.

        Args:
            damping: Number, the mu.
        """
        if self._jacobian is None:
            step = -vectors.solved(self._matrix, damping, self._half_gradient)
        else:
            of_residuals = vectors.solved(self._matrix, damping, self._residuals)
            step = -vectors.product(ops.transpose(self._jacobian), of_residuals)
        slope, square = scalars.known(
            vectors.inner(step, self._half_gradient), vectors.inner(step, step)
        )
        return step, damping * square - slope


def _reduced(residuals, jacobian, is_whole):
    """The matrix of the normal equations, half the gradient, the diagonal of J^T J and the sum of
    squares. In the space of the weights they add up over parts; in that of the residuals they do
    not, and Jacobian and residuals come with them."""
    transposed = ops.transpose(jacobian)
    diagonal = ops.sum(jacobian * jacobian, axis=0)
    sums = [vectors.product(transposed, residuals), diagonal, vectors.inner(residuals, residuals)]
    rows, columns = jacobian.shape
    if is_whole and rows is not None and rows < columns:
        return [ops.matmul(jacobian, transposed), *sums, jacobian, residuals]
    return [ops.matmul(transposed, jacobian), *sums]


def _check_size(rows, columns, is_whole, dtype):
    size = min(rows or columns, columns) if is_whole else columns
    check_matrix(
        size,
        dtype,
        "LevenbergMarquardt makes a matrix of {size} by {size} numbers here, which would take "
        "{memory}: a row for each weight, or without `microbatch_size` for each residual where "
        "those are fewer.",
    )
