"""The lines of the steps in the docs: what counts as one, and that the table is of today."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.step_lines import step_lines

ROOT = Path(__file__).parents[1]

SOURCE = '''
import keras


def square(x):  # called by the step
    """Of a number."""
    return x * x  # 2 lines so far


def cube(x):
    return x**3


class Base(keras.Model):
    def scaled(self, x):

        # With a comment.
        return (
            2
            * square(x)
        )  # 5 lines more


class Model(Base):
    def __init__(self):
        super().__init__()

    def other(self):
        return self.cube(1)

    def train_step(self, data):
        """Takes a step.

        On one batch.
        """
        def loss():
            """The loss."""
            return self.scaled(data)

        cube = """in
        two lines"""
        return {"loss": loss(), "text": cube}  # 6 lines more
'''


def test_what_counts_as_a_line():
    assert step_lines(SOURCE) == 13


def test_other_methods_that_make_a_step():
    for name in ("multi_gradient_step", "closed_form_gradient", "estimate_gradient"):
        assert step_lines(SOURCE.replace("train_step", name)) == 13
    assert step_lines(SOURCE.replace("train_step", "fit")) is None


@pytest.mark.backend("jax")  # it runs without one: once is enough
def test_the_table_in_the_docs_is_of_today():
    script = ROOT / "benchmarks" / "lines_of_code.py"
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    table = printed.stdout.strip()
    assert len(table.splitlines()) > 4
    found = table in (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert found, "run: python benchmarks/lines_of_code.py --output docs/gallery.md"
    row = next(line for line in table.splitlines() if "`word2vec.py`" in line)
    assert row in (ROOT / "docs" / "embedding-tables.md").read_text(encoding="utf-8")
