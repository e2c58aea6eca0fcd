"""`LimitedMemory`: the inverse Hessian of L-BFGS, from the last steps and gradient changes."""

import math
from typing import Any, NamedTuple

from keras import ops

from keras_cool.backend import scalars, vectors

arrays, solve_triangular = scalars.arrays, scalars.solve_triangular


class Pairs(NamedTuple):
    """The curvature pairs in a step: the step `s` of an iteration and the change `y` of its
    gradient."""

    count: Any  # how many have been kept, a number as `backend.scalars` has it
    rows: Any  # matrix `(2 * places, weights)`: steps, then changes
    s_y: Any  # small array `(places, places)`: steps times changes
    y_y: Any  # the same, changes times changes


class LimitedMemory:
    r"""The inverse Hessian of L-BFGS.

    The two-loop recursion, with its loops over pairs written as solutions of triangular systems:
    the compact representation. With the steps as the columns of \(S\), the changes of the gradient
    as those of \(Y\), the upper triangle \(R\) of \(S^T Y\) and its diagonal \(D\),

    \[ H g = \gamma g + S R^{-T} \big( (D + \gamma Y^T Y) R^{-1} S^T g - \gamma Y^T g \big)
       - \gamma Y R^{-1} S^T g, \qquad \gamma = s^T y / y^T y \text{ of the last pair}. \]

    Args:
        optimizer: The Keras optimizer that gets the variables.
        variables: List of the `keras.Variable`s to train.
        memory: Integer, the number of pairs.
        dtype: String, the dtype of vectors.

    Reference:
        Byrd, Nocedal and Schnabel, 1994, "Representations of quasi-Newton matrices and their use in
        limited memory methods", theorem 2.2; Nocedal and Wright, 2006, "Numerical Optimization",
        algorithm 7.4.
    """

    def __init__(self, optimizer, variables, memory, dtype):
        self.memory, self.places = memory, memory + 1  # one is free for the next pair
        self._optimizer, self._dtype = optimizer, dtype
        self._count = optimizer._counter("number_of_pairs")
        self._rows = [
            optimizer.add_variable(
                shape=(2 * self.places, *v.shape),
                initializer="zeros",
                dtype=dtype,
                aggregation="only_first_replica",
                name=f"{v.path.replace('/', '_')}_pairs",
            )
            for v in variables
        ]

    has_scale = True  # by the last pair: a step of size 1 fits

    def load(self, variables, is_known):
        """Returns the state in a step that trains `variables`: `Pairs`, none unless `is_known`."""
        rows = [v.value for v in self._optimizer._slots_of(self._rows, variables)]
        rows = [ops.reshape(r, (2 * self.places, -1)) for r in rows]
        rows = vectors.own(ops.concatenate(rows, axis=1))
        products = scalars.known_array(rows @ ops.transpose(rows[self.places :]))
        count = scalars.known_count(self._count.value)
        pairs = Pairs(count, rows, products[: self.places], products[self.places :])
        return self.cleared(pairs, scalars.logical_not(is_known))

    def save(self, pairs, variables):
        """Assigns the state to the variables."""
        self._count.assign(pairs.count)
        end = 0
        for variable in self._optimizer._slots_of(self._rows, variables):
            start, end = end, end + math.prod(variable.shape[1:])
            variable.assign(ops.reshape(pairs.rows[:, start:end], variable.shape))

    def is_empty(self, pairs):
        """Whether the inverse Hessian is the identity."""
        return pairs.count == 0

    def times(self, pairs, gradient):
        """Returns the inverse Hessian times a vector."""
        ages = arrays.arange(self.memory, dtype="int32")  # the oldest first
        by_age = (pairs.count + 1 + ages) % self.places
        is_there = ages >= self.memory - pairs.count
        products = scalars.known_array(vectors.product(pairs.rows, gradient))
        s_g, y_g = (
            arrays.where(is_there, arrays.take(part, by_age), 0.0)
            for part in (products[: self.places], products[self.places :])
        )
        are_there = is_there & is_there[:, None]
        s_y, y_y = (
            arrays.where(are_there, arrays.take(arrays.take(a, by_age, 0), by_age, 1), 0.0)
            for a in (pairs.s_y, pairs.y_y)
        )
        diagonal = arrays.diagonal(s_y)
        one = arrays.ones_like(diagonal[-1])
        gamma = diagonal[-1] / arrays.where(is_there[-1], y_y[-1, -1], one)
        gamma = arrays.where(is_there[-1], gamma, one)
        r = arrays.triu(s_y) + arrays.diag(arrays.where(is_there, 0.0, arrays.ones_like(diagonal)))
        a = solve_triangular(r, s_g)
        b = diagonal * a + gamma * (arrays.sum(y_y * a, axis=1) - y_g)
        c = solve_triangular(arrays.transpose(r), b, lower=True)
        places = arrays.arange(self.places, dtype="int32")
        by_place = (places - pairs.count - 1) % self.places
        none = arrays.zeros_like(c[:1])  # of the place that is free
        factors = [arrays.concatenate([f, none]) for f in (c, -gamma * a)]
        factors = arrays.take(arrays.stack(factors), by_place, 1)
        return vectors.combined(arrays.reshape(factors, (-1,)), pairs.rows, gamma, gradient)

    def updated(self, pairs, step, change, s_y, s_b_s, is_kept):
        """Returns the state with one pair more, if `is_kept`.

        Args:
            pairs: `Pairs`.
            step: Vector, the step of an iteration.
            change: Vector, the change of the gradient over it.
            s_y: Number, the inner product of the two.
            s_b_s: Not used.
            is_kept: Whether the pair is to be kept.
        """
        # It overwrites no pair that counts, so that it may stay where it is if it is not kept.
        places, place = self.places, pairs.count % self.places
        rows = vectors.with_row(pairs.rows, place, step)
        rows = vectors.with_row(rows, places + place, change)
        products = scalars.known_array(vectors.product(rows, change))
        steps_by_changes = _with_column(pairs.s_y, place, products[:places])
        changes = _with_column(pairs.y_y, place, products[places:])
        changes = arrays.transpose(
            _with_column(arrays.transpose(changes), place, products[places:])
        )
        one, none = scalars.number(1, "int32"), scalars.number(0, "int32")
        count = pairs.count + scalars.where(is_kept, one, none)
        return Pairs(count, rows, steps_by_changes, changes)

    def cleared(self, pairs, is_cleared):
        """Returns the state without pairs, if `is_cleared`."""
        none = scalars.number(0, "int32")
        return pairs._replace(count=scalars.where(is_cleared, none, pairs.count))


def _with_column(array, place, column):
    """A small array with another column at `place`."""
    is_there = arrays.arange(array.shape[1], dtype="int32") == place
    return arrays.where(is_there, column[:, None], array)
