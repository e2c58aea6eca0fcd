"""`__version__` is the version that is built."""

import subprocess
import sys
from pathlib import Path

import keras_cool as kc


def test_it_is_the_version_of_the_distribution():
    command = [sys.executable, "-m", "hatchling", "version"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == kc.__version__
