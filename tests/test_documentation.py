"""Examples in the README, the docs and the docstrings run, and every public name is described.

A fenced block `python` is run; a block `text` right after it holds what it prints, with `...` for
what may differ. The blocks of a page share one namespace, in order. `bash` blocks are not run.
"""

import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
from pathlib import Path
from typing import NamedTuple

import keras
import pytest

import keras_cool as kc

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "text", "bash"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
OTHER_BACKENDS = {"jax", "tensorflow", "torch"} - {keras.backend.backend()}
COMMANDS = [
    "pip install -e '.[jax,examples]' && KERAS_BACKEND=jax python examples/train.py",
    "pip install nox && nox -s tests",
]


# --------------------------------------------------------------------------- pages


class Block(NamedTuple):
    language: str
    line: int  # of its first line of code, from 1
    text: str


def fenced_blocks(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    fences = [i for i, line in enumerate(lines) if line.lstrip().startswith("```")]
    assert len(fences) % 2 == 0, f"{page} has a fenced block without an end"
    blocks = []
    for start, end in zip(fences[::2], fences[1::2]):
        language = lines[start].removeprefix("```")
        assert language in LANGUAGES, f"{page}:{start + 1}: a block is one of {sorted(LANGUAGES)}"
        text = "\n".join(lines[start + 1 : end]) + "\n"
        blocks.append(Block(language, start + 2, text))
    return blocks


def run_page(page):
    """Runs the examples of a page; gives how many."""
    namespace = {"__name__": "__main__"}
    blocks = fenced_blocks(page)
    for block, following in zip(blocks, [*blocks[1:], None]):
        if block.language != "python":
            continue
        printed = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if following is not None and following.language == "text":
            assert doctest.OutputChecker().check_output(
                following.text, printed.getvalue(), FLAGS
            ), f"{page}:{block.line} printed\n{printed.getvalue()}\nand not\n{following.text}"
    return sum(block.language == "python" for block in blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_a_page_run(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if "enable_float64()  #" in page.read_text(encoding="utf-8"):
        request.getfixturevalue("float64")  # which the page enables for the process, taken back
    assert run_page(page) > 0


def test_an_example_that_prints_something_else_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"page\.md:2 printed\n\s*2\n"):
        run_page(page)


def test_an_example_that_fails_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\nx.missing\n```\n", encoding="utf-8")
    with pytest.raises(AttributeError, match="missing"):
        run_page(page)


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_has_the_command(command):
    commands = [b.text.strip() for b in fenced_blocks(ROOT / "README.md") if b.language == "bash"]
    assert command in commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert target.startswith("https://") or (page.parent / target).is_file(), target


# --------------------------------------------------------------------------- docstrings


def modules():
    """The package's modules, without those for the other backends."""
    for module in pkgutil.walk_packages(kc.__path__, "keras_cool."):
        if not OTHER_BACKENDS & set(module.name.split(".")):
            yield importlib.import_module(module.name)


def docstring_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for module in modules() for test in finder.find(module) if test.examples]
    return sorted(found, key=lambda test: test.name)


@pytest.mark.parametrize("example", docstring_examples(), ids=lambda example: example.name)
def test_example_of_a_docstring_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = io.StringIO()
    result = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=report.write)
    assert result.failed == 0, report.getvalue()


def public_objects():
    """The public classes and functions, by the name that users write after `keras_cool.`."""
    for package, prefix in (
        (kc, ""),
        (kc.optimizers, "optimizers."),
        (kc.optimizers.schedules, "optimizers.schedules."),
        (kc.callbacks, "callbacks."),
    ):
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield prefix + name, value


def public_methods():
    """Each public method that keras_cool writes, once, with the class that has it."""
    for name, cls in public_objects():
        if not inspect.isclass(cls):
            continue
        for method, value in vars(cls).items():
            function = value.__func__ if isinstance(value, classmethod) else value
            if inspect.isfunction(function) and not method.startswith("_"):
                yield f"{name}.{method}", cls, function


def arguments(function):
    """The names of the arguments, without `self` or `cls`."""
    parameters = list(inspect.signature(function).parameters.values())
    if inspect.isclass(function) or not parameters or parameters[0].name not in ("self", "cls"):
        return [p.name for p in parameters]
    return [p.name for p in parameters[1:]]


def section(docstring, name):
    """The contents of a section of a docstring in Google style, or `None`."""
    match = re.search(rf"^{name}:\n+((?:.+\n?|\n(?=\s))+)", docstring, re.MULTILINE)
    return match and match[1]


def assert_describes_arguments(name, docstring, wanted):
    described = section(docstring, "Args") or ""
    missing = [a for a in wanted if not re.search(rf"^\s+\**{a}:", described, re.MULTILINE)]
    assert not missing, f"the section `Args` of {name} does not describe {missing}"


PUBLIC_OBJECTS = dict(public_objects())
PUBLIC_METHODS = {name: (cls, function) for name, cls, function in public_methods()}


@pytest.mark.parametrize("name", PUBLIC_OBJECTS)
def test_public_name_is_described(name):
    value = PUBLIC_OBJECTS[name]
    docstring = inspect.getdoc(value)
    assert vars(value).get("__doc__") if inspect.isclass(value) else docstring
    assert re.match(r"\S.*\.(\s|$)", docstring), "begins with a sentence"
    assert ">>> " in (section(docstring, "Example") or ""), "has an example"
    initialised_by_keras = inspect.isclass(value) and not any(
        "__init__" in vars(base)
        for base in value.__mro__
        if base.__module__.startswith("keras_cool.")
    )
    if not initialised_by_keras:
        assert_describes_arguments(name, docstring, arguments(value))
    if inspect.isfunction(value):
        assert section(docstring, "Returns")


@pytest.mark.parametrize("name", PUBLIC_METHODS)
def test_public_method_is_described(name):
    cls, function = PUBLIC_METHODS[name]
    docstring = inspect.getdoc(getattr(cls, function.__name__))  # its own, or the overridden one's
    assert docstring
    assert re.match(r"\S.*\.(\s|$)", docstring), "begins with a sentence"
    if not described_by_keras(cls, function.__name__):
        assert_describes_arguments(name, docstring, arguments(function))


def described_by_keras(cls, method):
    """Whether it overrides a method of Keras, whose arguments Keras describes."""
    bases = [*cls.__mro__, *keras.Model.__mro__]  # the mixin stands before a model
    return any(
        method in vars(base) for base in bases if not base.__module__.startswith("keras_cool.")
    )


@pytest.mark.parametrize("name", PUBLIC_OBJECTS)
def test_reference_has_the_public_name(name):
    lines = REFERENCE.read_text(encoding="utf-8").splitlines()
    assert f"::: keras_cool.{name}" in lines
