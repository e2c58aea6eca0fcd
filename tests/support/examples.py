"""The scripts of `examples/`: imported, and run with what they print and compute to be seen."""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples"


def script(name):
    """The script of that name, as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_example", FOLDER / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed_and_computed(module, function, options):
    """Runs a script; gives what it printed, and what its function of that name returned."""
    original, seen = getattr(module, function), []
    setattr(module, function, lambda *arguments: seen.append(original(*arguments)) or seen[0])
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert module.main(options) == 0
    finally:
        setattr(module, function, original)
    return printed.getvalue(), seen[0]
