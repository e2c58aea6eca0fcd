"""Files that a callback writes: checked before training, and replaced whole or not at all."""

import contextlib
import os
import signal
import tempfile
import threading
from pathlib import Path


def checked_path(path, argument, endings):
    """Returns `path` as a `Path` that can be written, and makes its folder.

    Args:
        path: String or `Path`.
        argument: String, the argument's name, as in `PythonMetric(save_best=...)`.
        endings: Tuple of strings, one of which the path has to end with.

    Raises:
        TypeError: If it is no path.
        ValueError: If it ends otherwise.
        OSError: If it is a folder, or cannot be written; of the kind that the system raised.
    """
    if not isinstance(path, str | Path):
        raise TypeError(
            f"{argument} is a path, a string or `Path`. It was given {path!r} of type "
            f"{type(path).__name__}."
        )
    path = Path(path)
    if not path.name.endswith(endings):
        raise ValueError(
            f"{argument} is the path of a file that ends with {' or '.join(endings)}. It was given "
            f"{str(path)!r}."
        )
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with signals_held_back(), tempfile.NamedTemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise type(error)(
            f"{argument} cannot be written at {str(path)!r} ({error.strerror or error}). Give the "
            "path of a file in a folder that can be written."
        ) from error
    return path


@contextlib.contextmanager
def replacing(path):
    """Returns the path of a new file, which replaces `path` once the block has ended.

    If the block fails, or the process ends within it, the file that was there is left whole.
    Ctrl-C and SIGTERM take effect once the new file is in place, and leave nothing else behind.
    """
    prefix = f".{path.name}-"
    with (
        signals_held_back(),
        tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as folder,
    ):
        new = Path(folder, path.name)
        yield new
        with new.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(new, path)


@contextlib.contextmanager
def signals_held_back():
    """Lets Ctrl-C and SIGTERM take effect at the end of the block.

    Python handles signals in the main thread; in another one there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in (None, signal.SIG_IGN):  # None: not set from Python
            handlers[number] = signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for arrival in dict.fromkeys(arrived):
            signal.raise_signal(arrival)
