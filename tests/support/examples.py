"""The scripts of `examples/`: imported, and run with what they print and compute to be seen.

Their steps written by hand for the backend in use, `benchmarks/by_hand/`, are imported here too.
"""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path

import keras
import numpy as np

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


def step_by_hand(name):
    """The class of `benchmarks/by_hand/` that has the step of the example of that name."""
    return importlib.import_module(f"by_hand.{name}_{keras.backend.backend()}").Model


def weights_after(model, *data, steps=5, batch_size=8, **options):
    """The trainable weights, in NumPy, after so many steps of `fit` on batches in their order."""
    part = [x[: steps * batch_size] for x in data]
    model.fit(*part, batch_size=batch_size, shuffle=False, verbose=0, **options)
    return [keras.ops.convert_to_numpy(v.value) for v in model.trainable_variables]


def assert_alike(found, expected, rtol):
    """Weights agree, relative to the largest of each."""
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * np.abs(other).max())
