"""What `import keras_cool` brings in, and the room rules of the package."""

import ast
import inspect
import pathlib
import re
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


def test_it_imports_no_library_besides_keras():
    """What takes long to import, as matplotlib or SciPy, is imported where it is used."""
    code = (
        "import sys, keras; before = set(sys.modules); import keras_cool; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    code_, out, err = run(code)
    assert code_ == 0, err
    assert set(ast.literal_eval(out)) <= {"keras_cool", keras.backend.backend()}


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


# What each room may import besides itself; a file in none is the room of its name.
BELOW = {
    "version": (),
    "supported_backend": (),
    "keras_private": (),
    "optimizer_roles": ("keras_private",),
    "saved_seeds": (),
    "backend": ("keras_private", "optimizer_roles", "supported_backend"),
    "float64": ("backend", "keras_private"),
    "gradients": ("backend", "keras_private"),
    "training": (
        "backend",
        "float64",
        "gradients",
        "keras_private",
        "optimizer_roles",
        "saved_seeds",
    ),
    "optimizers": ("backend", "float64", "keras_private", "optimizer_roles", "saved_seeds"),
}
BELOW["callbacks"] = (*BELOW, "callbacks")
BELOW["__init__"] = tuple(BELOW)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms(path):
    """Imports run downwards; backends are named in their folders, private Keras in one file."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    for name in imports(path):
        root, *rest = name.split(".")
        if root in BACKENDS:
            assert parts[:2] == ("backend", root), name
        if name.startswith("keras.src"):
            assert parts == ("keras_private",), name
        if root == "keras_cool" and rest[0] != parts[0]:
            assert rest[0] in BELOW[parts[0]], name
        if root == "keras_cool" and rest[:1] == ["backend"] and len(rest) > 1:
            other = set(BACKENDS) & set(rest)  # chosen in one place
            assert not other or parts[:2] in [("backend", "__init__"), ("backend", *other)], name


def signatures(path):
    """The public functions and classes of a file, with the arguments of the functions."""
    return {
        node.name: [a.arg for a in node.args.args] if isinstance(node, ast.FunctionDef) else None
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }


@pytest.mark.parametrize(
    "file",
    [
        "gradients",
        "train_step",
        "loops",
        "memory",
        "scalars",
        "snapshots",
        "updates",
        "vectors",
        "rows",
    ],
)
def test_the_backends_offer_the_same(file):
    offered = [signatures(PACKAGE / "backend" / b / f"{file}.py") for b in BACKENDS]
    for other in offered[1:]:
        assert other == offered[0]


def public_names(module):
    """Those of a module and of the modules in it that it exports."""
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.ismodule(value):
            yield from public_names(value)
        else:
            yield name


def file_called_after(name):
    """`RungeKutta` is `test_runge_kutta.py`, and `RK45` is `test_rk45.py`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip("_"))
    return pathlib.Path(__file__).with_name(f"test_{words.lower()}.py")


@pytest.mark.parametrize("name", list(public_names(keras_cool)))
def test_every_public_name_has_a_file_of_tests(name):
    path = file_called_after(name)
    assert path.is_file()
    assert name in path.read_text()
