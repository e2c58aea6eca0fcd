"""Ctrl-C and SIGTERM end the process at once, and leave nothing of an unfinished run."""

import contextlib
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

INTERRUPTED = "train.py: interrupted, nothing was written"
UNFINISHED: list[Path] = []  # folders that a stopped run must not leave behind
COMPLETE = threading.Event()  # set once all is written, and only has to be moved into place


def stop(number: int, frame: object) -> None:
    """Ends the process at Ctrl-C or SIGTERM, without a trace of the unfinished run.

    It raises nothing: Keras catches every exception where it waits for the loss of a batch, a
    `KeyboardInterrupt` too, and trains on.
    """
    if COMPLETE.is_set():
        return
    for folder in UNFINISHED:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: in the middle of a print
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"\n{INTERRUPTED}\n".encode())
    os._exit(128 + number)


def stop_at_signals() -> None:
    """Lets Ctrl-C, SIGTERM and a closed terminal stop the run."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        under_nohup = name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN
        if number is not None and not under_nohup:
            signal.signal(number, stop)
