"""`Tableau`: the coefficients of an explicit Runge-Kutta method, checked when they are given."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_cool.optimizers.runge_kutta.order_conditions import violated_condition

_TOLERANCE = 1e-10  # for coefficients printed with about 12 digits or more


@keras.saving.register_keras_serializable(package="keras_cool")
@dataclasses.dataclass(frozen=True)
class Tableau:
    r"""The Butcher tableau of an explicit Runge-Kutta method, with or without an embedded error.

    With the gradient \(g\), the step size \(h\) and \(s\) stages

    \[ g_i = g\Big(p - h \sum_{j < i} a_{ij} g_j\Big), \qquad
       p \leftarrow p - h \sum_{i=1}^s b_i g_i. \]

    With embedded weights \(\hat b\), \(h \sum_i (b_i - \hat b_i) g_i\) estimates the error of the
    step.

    Example:

    >>> import keras_cool as kc
    >>> kutta = kc.optimizers.Tableau(
    ...     a=[[], [1 / 2], [-1, 2]], b=[1 / 6, 2 / 3, 1 / 6], order=3
    ... )
    >>> kutta.stages, kutta.c
    (3, (0.0, 0.5, 1.0))
    >>> optimizer = kc.optimizers.RungeKutta(0.1, kutta)

    Args:
        a: The rows \(a_{ij}\), a sequence of `stages` sequences of floats. Row `i`, from 0, has its
            `i` entries left of the diagonal, or `stages` entries, zeros from the diagonal on.
        b: Sequence of `stages` floats, the weights.
        order: Integer, at least 1, the order of the method. The order conditions up to order 5
            are checked.
        embedded_weights: Sequence of `stages` floats, the weights \(\hat b\) of a second method on
            the same stages, or `None`. Defaults to `None`.
        embedded_order: Integer, the order of that second method, or `None`. Defaults to `None`.
        c: Sequence of `stages` floats, the nodes, which must be the row sums of `a`. Defaults to
            `None`: the row sums.

    Raises:
        ValueError: If the shapes do not fit, the tableau is implicit, the nodes are not the row
            sums, the weights do not add up to 1, a stated order is not reached, one of the
            embedded arguments comes without the other, or the embedded weights are `b`.

    Reference:
        Butcher, 1964, "On Runge-Kutta processes of high order"; Hairer, Nørsett and Wanner, 1993,
        "Solving Ordinary Differential Equations I", 2nd edition, definition II.1.1 and section II.2
        (the order conditions).
    """

    a: Sequence[Sequence[float]]
    b: Sequence[float]
    order: int
    embedded_weights: Sequence[float] | None = None
    embedded_order: int | None = None
    c: Sequence[float] | None = None

    def __post_init__(self):
        # `object.__setattr__`, since the dataclass is frozen: the fields become tuples of floats.
        object.__setattr__(self, "b", _row(self.b, "b"))
        object.__setattr__(self, "a", _explicit_rows(self.a, self.stages))
        matrix = _square(self.a)
        object.__setattr__(self, "c", _checked_nodes(self.c, matrix))
        _check_weights("b", self.b, self.stages)
        _check_order("order", self.order, matrix, np.array(self.b))
        if (self.embedded_weights is None) != (self.embedded_order is None):
            raise ValueError(
                "An embedded error needs both `embedded_weights` and `embedded_order`. Got "
                f"embedded_weights={self.embedded_weights}, embedded_order={self.embedded_order}. "
                "Give both, or neither."
            )
        if self.embedded_weights is not None:
            self._check_embedded(matrix)

    def _check_embedded(self, matrix):
        weights = _row(self.embedded_weights, "embedded_weights")
        object.__setattr__(self, "embedded_weights", weights)
        _check_weights("embedded_weights", weights, self.stages)
        _check_order("embedded_order", self.embedded_order, matrix, np.array(weights))
        if np.allclose(weights, self.b, rtol=0, atol=_TOLERANCE):
            raise ValueError(
                "The embedded weights are the weights `b` themselves, so that the error would "
                "always be zero. Give those of another method, or leave `embedded_weights` and "
                "`embedded_order` out."
            )

    @property
    def stages(self):
        """The number of stages."""
        return len(self.b)

    @property
    def first_same_as_last(self):
        """Whether the last stage is the first of the next step (FSAL): its row of `a` is `b`."""
        return self.stages > 1 and (*self.a[-1], 0.0) == self.b

    @property
    def error_weights(self):
        """The weights of the error estimate, `b - embedded_weights`, or `None`."""
        if self.embedded_weights is None:
            return None
        return tuple(x - y for x, y in zip(self.b, self.embedded_weights, strict=True))

    @property
    def error_order(self):
        """The order of the error estimate: the lower of the two orders, or `None`."""
        return None if self.embedded_order is None else min(self.order, self.embedded_order)

    def get_config(self):
        """The configuration: the coefficients."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        """Makes the tableau that `get_config` describes."""
        return cls(**config)


def _row(values, name):
    row = tuple(float(x) for x in values)
    if not row or not np.isfinite(row).all():
        raise ValueError(
            f"`{name}` of a tableau has to hold finite numbers, one for each stage. Got {row}."
        )
    return row


def _explicit_rows(rows, stages):
    rows = [tuple(float(x) for x in row) for row in rows]
    if len(rows) != stages:
        raise ValueError(
            f"`a` has {len(rows)} rows and `b` {stages} weights. A tableau needs a row for each "
            "stage; the first one is empty: a=[[], [1.0]], b=[0.5, 0.5]."
        )
    for i, row in enumerate(rows):
        if not np.isfinite(row).all():
            raise ValueError(f"Row {i} of `a` has to hold finite numbers. Got {row}.")
        if len(row) not in (i, stages):
            raise ValueError(
                f"Row {i} of `a` has {len(row)} entries. It needs the {i} left of the diagonal, or "
                f"all {stages}. Got {row}."
            )
        if any(row[i:]):
            raise ValueError(
                f"Row {i} of `a` is {row}: it is not zero from the diagonal on, so the method is "
                "implicit, and its stages cannot be computed one after the other. Give an explicit "
                "tableau, for example RK4's."
            )
    return tuple(row[:i] for i, row in enumerate(rows))


def _square(rows):
    matrix = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        matrix[i, :i] = row
    return matrix


def _checked_nodes(nodes, matrix):
    sums = matrix.sum(axis=1)
    if nodes is None:
        return tuple(sums.tolist())
    nodes = _row(nodes, "c")
    if len(nodes) != len(sums) or not np.allclose(nodes, sums, rtol=0, atol=_TOLERANCE):
        raise ValueError(
            f"The nodes `c` have to be the sums of the rows of `a`, {tuple(sums.tolist())}. Got "
            f"{nodes}. Leave `c` out, or fix a coefficient."
        )
    return nodes


def _check_weights(name, weights, stages):
    if len(weights) != stages:
        raise ValueError(
            f"`{name}` has {len(weights)} entries for {stages} stages. Give one for each stage."
        )
    if abs(sum(weights) - 1) > _TOLERANCE:
        raise ValueError(
            f"The tableau is not consistent: `{name}` adds up to {sum(weights)} and not to 1. Got "
            f"{weights}; fix a coefficient."
        )


def _check_order(name, order, matrix, weights):
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"`{name}` has to be a whole number of at least 1. Got {order!r}.")
    violated = violated_condition(matrix, weights, order)
    if violated is not None:
        reached, left, right = violated
        raise ValueError(
            f"The tableau is stated to have {name}={order}, and has order {reached - 1}: a "
            f"condition of order {reached} gives {left:.12g} and not {right:.12g}. State "
            f"{name}={reached - 1}, or fix a coefficient."
        )
