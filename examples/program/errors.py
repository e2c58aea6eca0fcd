"""What the user can fix is printed as one line, without a traceback."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator


class UserError(Exception):
    """What the user can fix: printed as one line, without a traceback."""


def one_line(message: object) -> str:
    """Gives a message on one line."""
    return " ".join(str(message).split())


def require(module: str, package: str) -> None:
    """Checks that a package is installed."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{package} is not installed; run: pip install {package}")


@contextlib.contextmanager
def backend_required(script: str) -> Iterator[None]:
    """Around the import of Keras: ends the script if the backend is not known or not installed."""
    try:
        yield
    except (ImportError, ValueError) as error:
        print(
            f"{script}: {one_line(error).rstrip('.')}. Install a backend and name it: "
            f"pip install -e '.[jax,examples]' && KERAS_BACKEND=jax python examples/{script}",
            file=sys.stderr,
        )
        sys.exit(2)
