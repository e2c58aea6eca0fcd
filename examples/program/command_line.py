"""Parsers of a command line: `--help` from a docstring, numbers and paths that are checked."""

import argparse
import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from program.errors import UserError

AnyParser = TypeVar("AnyParser", bound=argparse.ArgumentParser)


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are `UserError`s."""

    def error(self, message: str) -> None:
        raise UserError(f"{message} (see --help)")


def parser_of(
    script: str, docstring: str, kind: type[AnyParser] = argparse.ArgumentParser
) -> AnyParser:
    """Makes the parser of a script, whose help begins and ends with the script's docstring."""
    title, details = docstring.split("\n\n", 1)
    raw = argparse.RawDescriptionHelpFormatter
    return kind(script, description=title, epilog=details, formatter_class=raw)


def number(kind: type, wanted: str, allowed: Callable[[float], bool]) -> Callable[[str], float]:
    """Makes a reader of the numbers that are allowed."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if allowed(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")

    return read


def picture(text: str) -> Path:
    """Reads the path of a PNG file."""
    path = Path(text)
    if path.suffix.lower() != ".png" or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not the path of a .png file")
    return path


count = number(int, "a whole number of at least 1", lambda n: n >= 1)
positive = number(float, "a finite number above 0", lambda r: 0 < r < math.inf)
seed = number(int, "a whole number from 0 to 2**32 - 1", lambda n: 0 <= n < 2**32)
