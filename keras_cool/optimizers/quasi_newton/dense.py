"""`DenseInverse`: the inverse Hessian of BFGS and the self-scaled Broyden family, as a matrix."""

import math
from typing import Any, NamedTuple

from keras import ops

from keras_cool.backend import scalars, vectors


class Matrix(NamedTuple):
    """The inverse Hessian in a step."""

    count: Any  # of the pairs that it was made of: a number as `backend.scalars` has it
    inverse: Any  # matrix `(weights, weights)`, the identity as long as there is no pair


class Pair(NamedTuple):
    r"""What an update is chosen by, numbers as `backend.scalars` has them."""

    s_y: Any  # \(y^T s\), positive
    y_h_y: Any  # \(y^T H y\)
    s_b_s: Any  # \(s^T B s\) with the Hessian \(B\) before it
    weights: int  # the number of weights


class DenseInverse:
    r"""The inverse Hessian as a matrix \(H\), updated by the Broyden family with a scale.

    With the step \(s\), the change \(y\) of the gradient and \(v = s / y^T s - H y / y^T H y\), an
    iteration makes of it

    \[ \frac{1}{\tau} \Big( H - \frac{H y\, y^T H}{y^T H y} + \phi\, (y^T H y)\, v v^T \Big)
       + \frac{s s^T}{y^T s}. \]

    Before the first update it is the identity.

    Args:
        optimizer: The Keras optimizer that gets the variables.
        variables: List of the `keras.Variable`s to train.
        dtype: String, the dtype of the matrix.
        factors: A function of a `Pair` that returns \((\tau, \phi)\). Those of BFGS are 1 and 1.

    Reference:
        Nocedal and Wright, 2006, "Numerical Optimization", equations (6.17) and (6.32);
        Al-Baali, Spedicato and Maggioni, 2014, "Broyden's quasi-Newton methods for a nonlinear
        system of equations and unconstrained optimization: a review and open problems".
    """

    def __init__(self, optimizer, variables, dtype, factors):
        self._factors, self._dtype = factors, dtype
        size = sum(math.prod(v.shape) for v in variables)
        self._count = optimizer._counter("number_of_pairs")
        self._inverse = optimizer.add_variable(
            (size, size), "zeros", dtype, aggregation="only_first_replica", name="inverse_hessian"
        )

    has_scale = False  # of the steps along its directions, before many pairs

    def load(self, variables, is_known):
        """Returns the state in a step that trains `variables`: a `Matrix`."""
        size = sum(math.prod(v.shape) for v in variables)
        inverse = vectors.own(self._inverse.value[:size, :size])
        matrix = Matrix(scalars.known_count(self._count.value), inverse)
        return self.cleared(matrix, scalars.logical_not(is_known))

    def save(self, matrix, variables):
        """Assigns the state to the variables."""
        self._count.assign(matrix.count)
        inverse = matrix.inverse
        if inverse.shape != self._inverse.shape:  # some are frozen
            inverse = ops.slice_update(self._inverse.value, (0, 0), inverse)
        self._inverse.assign(inverse)

    def is_empty(self, matrix):
        """Whether the inverse Hessian is the identity."""
        return matrix.count == 0

    def times(self, matrix, gradient):
        """Returns the inverse Hessian times a vector."""
        product = vectors.product(matrix.inverse, gradient)
        return scalars.where(self.is_empty(matrix), gradient, product)

    def updated(self, matrix, step, change, s_y, s_b_s, is_kept):
        """Returns the state after one pair more, if `is_kept`.

        Args:
            matrix: The state, a `Matrix`.
            step: Vector, the step of an iteration.
            change: Vector, the change of the gradient over it.
            s_y: Number, the inner product of the two.
            s_b_s: Number, that of the step with the Hessian times the step.
            is_kept: Whether the pair is to be kept.
        """
        is_empty = self.is_empty(matrix)
        product = self.times(matrix, change)
        (y_h_y,) = scalars.known(vectors.inner(change, product))
        one, none = scalars.number(1.0, self._dtype), scalars.number(0.0, self._dtype)
        scale, share = self._factors(Pair(s_y, y_h_y, s_b_s, step.shape[0]))
        # Where rounding makes no sense of a factor, the update is that of BFGS.
        is_plain = scalars.logical_not(scalars.is_finite(scale * share) & (scale > 0))
        scale, share = (scalars.where(is_plain, one, f) for f in (scale, share))
        of_steps = scalars.divided(one, s_y) * (1 + share * scalars.divided(y_h_y, scale * s_y))
        mixed = -scalars.divided(share, scale * s_y)
        of_products = scalars.divided(share - 1, scale * y_h_y)
        of_steps, mixed, of_products = (
            scalars.where(is_kept, f, none) for f in (of_steps, mixed, of_products)
        )
        inverse = vectors.with_products(
            scalars.where(is_empty, vectors.identity_like(matrix.inverse), matrix.inverse),
            scalars.where(is_kept, scalars.divided(one, scale), one),
            [
                (step, of_steps * step + mixed * product),
                (product, mixed * step + of_products * product),
            ],
        )
        more = scalars.where(is_kept, scalars.number(1, "int32"), scalars.number(0, "int32"))
        return Matrix(matrix.count + more, inverse)

    def cleared(self, matrix, is_cleared):
        """Returns the identity, if `is_cleared`."""
        none = scalars.number(0, "int32")
        return matrix._replace(count=scalars.where(is_cleared, none, matrix.count))
