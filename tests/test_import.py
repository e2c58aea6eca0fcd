"""What `import keras_cool` brings in, and the room rules of the package."""

import ast
import pathlib
import subprocess
import sys

import keras
import pytest

import keras_cool

BACKENDS = {"jax", "tensorflow", "torch"}
PACKAGE = pathlib.Path(keras_cool.__file__).parent


def run(code):
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout.strip(), result.stderr


def test_no_backend_but_the_one_in_use_is_imported():
    others = BACKENDS - {keras.backend.backend()}
    code = (
        "import sys, keras; before = set(sys.modules); import keras_cool; "
        f"print(sorted({others!r} & (set(sys.modules) - before)))"
    )
    code_, out, err = run(code)
    assert code_ == 0, err
    assert out == "[]"


def test_import_adds_little_to_import_keras():
    """Less than a twentieth of what Keras itself takes, in one of three tries; 30 ms on an idle
    machine. Both are measured in one process, so that a busy one slows them alike."""
    code = (
        "import time; start = time.perf_counter(); import keras; between = time.perf_counter(); "
        "import keras_cool; print((time.perf_counter() - between) / (between - start))"
    )
    assert any(float(run(code)[1]) < 0.05 for _ in range(3))


def test_another_backend_is_an_error_that_names_the_three():
    code, _, err = run("import keras; keras.backend.backend = lambda: 'numpy'; import keras_cool")
    assert code == 1
    assert "Set KERAS_BACKEND to one of the three" in err


def imports(path):
    """The modules that a file imports, with the names taken from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms(path):
    """Backends are named in the files that exist for them; private Keras in one file."""
    room = path.relative_to(PACKAGE).parts[0]
    for name in imports(path):
        root = name.split(".")[0]
        if root in BACKENDS:
            own = path.stem.partition("_")[0] == root  # jax.py, jax_convolutions.py
            assert own and room in ("backend", "gradients", "training"), name
        if name.startswith("keras.src"):
            assert path.name == "keras_private.py", name
        if room in ("backend", "gradients") and name.startswith("keras_cool."):
            known = ("keras_private", "supported_backend", room)
            assert name.split(".")[1] in known, name
        if room == "training":
            assert name.split(".")[:2] != ["keras_cool", "optimizers"], name
        if room == "optimizers" and name.startswith("keras_cool.training"):
            assert name == "keras_cool.training.inject.inject", name
