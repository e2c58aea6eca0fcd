"""The order conditions of Runge-Kutta methods: one equation for each rooted tree."""

import itertools
import math
from functools import cache

import numpy as np

HIGHEST_ORDER = 5  # with 1, 1, 2, 4 and 9 trees, 17 conditions in all


@cache
def rooted_trees(order):
    r"""Returns the rooted trees with `order` nodes, each a sorted tuple of its root's subtrees.

    Args:
        order: Integer, at least 1.

    Returns:
        Sorted list of nested tuples. The tree of one node is `()`.
    """
    return sorted({tuple(sorted(forest)) for forest in _forests(order - 1)})


def _forests(nodes):
    if nodes == 0:
        yield ()
    for first in range(1, nodes + 1):
        for tree, rest in itertools.product(rooted_trees(first), _forests(nodes - first)):
            yield (tree, *rest)


def violated_condition(a, b, order, tolerance=1e-10):
    r"""Returns the first order condition that the coefficients do not satisfy.

    The condition of the tree \(\tau\) is \(\sum_i b_i \Phi_i(\tau) = 1 / \gamma(\tau)\). With the
    subtrees \(\tau_1, \dots, \tau_m\) of its root, \(\Phi_i(\tau) = \prod_k \sum_j a_{ij}
    \Phi_j(\tau_k)\), and \(\gamma(\tau) = |\tau| \prod_k \gamma(\tau_k)\).

    Args:
        a: NumPy array of shape `(stages, stages)`.
        b: NumPy array of shape `(stages,)`.
        order: Integer, the highest order to check. Orders above `HIGHEST_ORDER` are not checked.
        tolerance: Float, how far apart the two sides may be.

    Returns:
        `None` if all hold, else `(order, left, right)`: the order of the tree and the two sides.

    Reference:
        Butcher, 2016, "Numerical Methods for Ordinary Differential Equations", 3rd edition, theorem
        315A.
    """
    for p in range(1, min(order, HIGHEST_ORDER) + 1):
        for tree in rooted_trees(p):
            left, right = float(b @ _elementary_weights(a, tree)), 1 / _density(tree)
            if abs(left - right) > tolerance:
                return p, left, right
    return None


def _elementary_weights(a, tree):
    factors = [a @ _elementary_weights(a, subtree) for subtree in tree]
    return np.prod(factors, axis=0) if factors else np.ones(len(a))


def _density(tree):
    return _nodes(tree) * math.prod(_density(subtree) for subtree in tree)


def _nodes(tree):
    return 1 + sum(_nodes(subtree) for subtree in tree)
