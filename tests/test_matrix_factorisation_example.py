"""`examples/matrix_factorisation.py`: its recall, its data, what it prints, and its errors."""

import numpy as np
import pytest

from support.examples import script


@pytest.fixture(scope="module")
def example():
    return script("matrix_factorisation")


def test_recall_is_that_of_a_count_by_hand(example):
    """Two of three held-out items are among the ten best that were not trained on."""
    train, test = np.array([[0, 0], [0, 1]]), np.array([[0, 2], [0, 11], [0, 12]])
    feedback = example.Feedback(train, test, users=1, items=20)
    assert example.recall(-np.arange(20.0)[None], feedback) == pytest.approx(2 / 3)


def test_least_squares_solves_its_equations(example):
    rng = np.random.default_rng(0)
    taken, others = (rng.random((3, 5)) < 0.4) * 1.0, rng.normal(size=(5, 2))
    found = example._solved(taken, others, confidence=2.0, penalty=0.5)
    for row, vector in zip(taken, found, strict=True):
        weights = np.diag(1 + 2.0 * row)
        left = others.T @ weights @ others + 0.5 * np.eye(2)
        np.testing.assert_allclose(left @ vector, others.T @ weights @ row)


def test_it_recommends_better_than_popularity(example, capsys):
    assert example.main(["--epochs=8", "--rate=0.05"]) == 0
    printed = capsys.readouterr().out
    recalls = [float(line.split()[-1]) for line in printed.splitlines() if "recall@10" in line]
    popular, _, ours = recalls
    assert ours > 2 * popular


def test_a_file_is_read_and_a_bad_one_named(example, tmp_path, capsys):
    path = tmp_path / "ratings.csv"
    path.write_text("user,item\na,x\nb,y\na,x\n", encoding="utf-8")
    np.testing.assert_array_equal(example.read(path), [[0, 0], [1, 1]])
    path.write_text("user\na\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        example.main([f"--ratings={path}"])
    assert "has to have a header" in capsys.readouterr().err
