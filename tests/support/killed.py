"""A training that is killed in the middle, in a process of its own."""

import os
import pathlib
import signal
import subprocess
import sys

import keras

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import {module}
from support.killed import Kill
{module}.train_with_backup({path!r}, [Kill({epoch}, {batch})])
"""


class Kill(keras.callbacks.Callback):
    """Kills the process after a batch of an epoch, both counted from 0."""

    def __init__(self, epoch, batch):
        super().__init__()
        self._last, self._epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(module, path, epoch, batch):
    """Runs `train_with_backup(path, callbacks)` of a test module until it is killed."""
    code = PROGRAM.format(
        folder=str(pathlib.Path(__file__).parents[1]),
        module=module,
        path=str(path),
        epoch=epoch,
        batch=batch,
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert result.returncode == -signal.SIGKILL
