"""The files of a run: all of them are written, or none."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from program.errors import UserError, one_line
from program.stopping import COMPLETE, UNFINISHED


@contextlib.contextmanager
def writing_to(output: Path) -> Iterator[None]:
    """Makes what the file system says into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(
            f"--output {output}: {reason}; give a folder that can be written"
        ) from error


@contextlib.contextmanager
def unfinished_folder(output: Path) -> Iterator[Path]:
    """Makes `output`, and a folder in it for the files of a run, which is removed again."""
    folder = output / f".unfinished-{uuid.uuid4().hex}"
    UNFINISHED.append(folder)
    try:
        with writing_to(output):
            output.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        UNFINISHED.remove(folder)


def move_files(folder: Path, output: Path) -> list[str]:
    """Moves the files of a finished run to `output`; gives their names."""
    names = sorted(path.name for path in folder.iterdir())
    COMPLETE.set()
    for name in names:
        (folder / name).replace(output / name)
    return names
