"""Tableaus: SciPy's coefficients, the order conditions, and what a bad tableau is told."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.polynomial import Polynomial
from scipy.integrate import RK23, RK45

from keras_cool import optimizers
from keras_cool.optimizers import Tableau
from keras_cool.optimizers.runge_kutta.order_conditions import rooted_trees, violated_condition

NAMED = ("Heun", "Midpoint", "Ralston", "RK4", "RK23", "RK45", "Tsit5")
KUTTA = {"a": [[], [1 / 2], [-1, 2]], "b": [1 / 6, 2 / 3, 1 / 6], "order": 3}


def matrix(tableau):
    square = np.zeros((tableau.stages, tableau.stages))
    for i, row in enumerate(tableau.a):
        square[i, :i] = row
    return square


@pytest.mark.parametrize("scipy", [RK23, RK45], ids=["RK23", "RK45"])
def test_coefficients_are_those_of_scipy(scipy):
    ours = getattr(optimizers, scipy.__name__).tableau
    n = scipy.n_stages
    np.testing.assert_allclose(matrix(ours)[:n, : scipy.A.shape[1]], scipy.A, rtol=1e-14)
    np.testing.assert_allclose(ours.c[:n], scipy.C, rtol=1e-14)
    np.testing.assert_allclose(ours.b[:n], scipy.B, rtol=1e-14)
    np.testing.assert_allclose(ours.error_weights, -scipy.E, atol=1e-15)
    assert (ours.order, ours.error_order) == (scipy.order, scipy.error_estimator_order)
    assert ours.first_same_as_last


@pytest.mark.parametrize("name", NAMED)
def test_no_order_above_the_stated_one_holds(name):
    tableau = getattr(optimizers, name).tableau
    reached = violated_condition(matrix(tableau), np.array(tableau.b), tableau.order + 1)
    if tableau.order < 5:  # conditions are checked up to order 5
        assert reached[0] == tableau.order + 1
    if tableau.embedded_weights is not None:
        weights = np.array(tableau.embedded_weights)
        reached = violated_condition(matrix(tableau), weights, tableau.embedded_order + 1)
        assert reached[0] == tableau.embedded_order + 1


def row_of_the_docs(name):
    """The cells of a method's row in the table of docs/solvers.md, without footnotes."""
    page = Path(__file__).parents[1] / "docs" / "solvers.md"
    (row,) = re.findall(rf"(?m)^\| `{name}` \|.*$", page.read_text(encoding="utf-8"))
    return [re.sub(r"\[\^.*?\]", "", cell).strip(" `") for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("name", NAMED)
def test_the_docs_have_the_numbers_of_the_tableau(name):
    """The stability interval is where the stability polynomial leaves the unit circle."""
    tableau = getattr(optimizers, name).tableau
    vector, coefficients = np.ones(tableau.stages), [1.0]
    for _ in range(tableau.stages):
        coefficients.append(np.array(tableau.b) @ vector)
        vector = matrix(tableau) @ vector
    polynomial = Polynomial(coefficients)
    ends = [*(polynomial - 1).roots(), *(polynomial + 1).roots()]
    limit = min(-z.real for z in ends if abs(z.imag) < 1e-6 and z.real < -0.1)
    _, stages, order, error_order, evaluations, _, stable, _ = row_of_the_docs(name)
    assert (int(stages), int(order)) == (tableau.stages, tableau.order)
    assert error_order == str(tableau.embedded_order or "")
    assert int(evaluations) == getattr(optimizers, name)(0.1).evaluations
    assert -1e-9 < limit - float(stable) < 1e-3


def test_rooted_trees_are_as_many_as_there_are():
    """Sequence A000081: 17 trees up to order 5."""
    assert [len(rooted_trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": [[], [1 / 2]]}, "2 rows and `b` 3 weights"),
        ({"a": [[], [1 / 2], [2]]}, "Row 2 of `a` has 1 entries. It needs the 2 left"),
        ({"a": [[0, 0, 0], [1 / 4, 1 / 4, 0], [-1, 2, 0]]}, "Row 1 .*implicit"),
        ({"a": [[0, 0, 0], [1 / 2, 0, 1], [-1, 2, 0]]}, "Row 1 .*implicit"),
        ({"b": [1 / 6, 2 / 3, 1 / 3]}, "not consistent: `b` adds up to 1.16"),
        ({"b": []}, "finite numbers, one for each stage"),
        ({"b": [1 / 6, np.nan, 1 / 6]}, "finite numbers"),
        ({"c": [0, 1 / 2, 0.9]}, "sums of the rows of `a`, .*Leave `c` out"),
        ({"c": [0, 1 / 2]}, "sums of the rows"),
        ({"order": 4}, "stated to have order=4, and has order 3: .*State order=3"),
        ({"order": 0}, "whole number of at least 1"),
        ({"order": 3.0}, "whole number of at least 1"),
        ({"embedded_weights": [0, 1, 0]}, "both `embedded_weights` and `embedded_order`"),
        ({"embedded_order": 2}, "both `embedded_weights` and `embedded_order`"),
        ({"embedded_weights": [0, 1], "embedded_order": 2}, "2 entries for 3 stages"),
        ({"embedded_weights": [0, 2, 0], "embedded_order": 2}, "`embedded_weights` adds up to 2"),
        ({"embedded_weights": [1, 0, 0], "embedded_order": 2}, "State embedded_order=1"),
        ({"embedded_weights": KUTTA["b"], "embedded_order": 3}, "always be zero"),
    ],
)
def test_a_bad_tableau_is_told_the_mend(changes, message):
    with pytest.raises(ValueError, match=message):
        Tableau(**{**KUTTA, **changes})


def test_a_square_matrix_is_the_same_tableau():
    square = {**KUTTA, "a": [[0, 0, 0], [1 / 2, 0, 0], [-1, 2, 0]], "c": [0, 1 / 2, 1]}
    assert Tableau(**square) == Tableau(**KUTTA)


def test_a_tableau_is_frozen_and_has_a_config():
    tableau = optimizers.RK45.tableau
    with pytest.raises(AttributeError):
        tableau.order = 6
    config = keras.saving.serialize_keras_object(tableau)
    assert keras.saving.deserialize_keras_object(config) == tableau
