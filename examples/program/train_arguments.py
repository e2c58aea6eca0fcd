"""The command line of `train.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import keras

from program.command_line import Parser, count, parser_of, positive, seed
from program.data import DOWNLOADS
from program.errors import UserError
from program.optimizers import CONTROLLED, METHOD_LEARNING_RATE, METHODS, NOTATION, method_of

MICROBATCH_SIZE = 16


def parse_arguments(docstring: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; `argv=None` is that of the process."""
    parser = parser_of("train.py", docstring, Parser)
    add = parser.add_argument
    add("--optimizer", metavar="NAME", default="heun", help=f"{NOTATION}; default: heun")
    add(
        "--learning-rate",
        metavar="RATE",
        type=positive,
        help=f"default: {METHOD_LEARNING_RATE} for a METHOD ({', '.join(CONTROLLED)} choose it, "
        "and take a given one as the first), else Keras' own for the OPTIMIZER",
    )
    add("--batch-size", metavar="N", type=count, default=64, help="default: 64")
    add(
        "--microbatch-size",
        metavar="N",
        type=count,
        help="how many of a batch are computed at a time: less memory, the same result; default: "
        f"{MICROBATCH_SIZE}, or the whole of a smaller batch",
    )
    add(
        "--accumulate",
        metavar="N",
        type=count,
        default=1,
        help="how many batches make up an update of an OPTIMIZER: as if they were one; default: 1",
    )
    add("--epochs", metavar="N", type=count, default=20, help="default: 20")
    add(
        "--find-learning-rate",
        action="store_true",
        help="run a range test first and train with the rate that it suggests",
    )
    add(
        "--warmup",
        metavar="EPOCHS",
        type=count,
        default=0,
        help="let the learning rate grow from 0 over so many epochs, batch by batch; default: none",
    )
    add("--report", action="store_true", help="draw the norms of gradients and updates")
    add("--seed", metavar="N", type=seed, default=0, help="of weights and shuffling; default: 0")
    add(
        "--data",
        metavar=f"digits|{'|'.join(DOWNLOADS)}|PATH.npz",
        default="digits",
        help="a file holds x_train, y_train, x_test, y_test: images (n, h, w) or (n, h, w, c), or "
        "flat features (n, d), and labels 0, 1, 2, ...; the mnist are downloaded; default: digits",
    )
    add(
        "--output",
        metavar="DIR",
        type=Path,
        help="the files of an earlier run in it are replaced; default: runs/DATA-NAME-BACKEND",
    )
    return completed(parser, parser.parse_args(argv))


def completed(parser: Parser, arguments: argparse.Namespace) -> argparse.Namespace:
    """Checks what goes together, and sets what is left to default.

    The size of the micro-batches becomes `None` where a batch is computed at once.
    """
    if arguments.microbatch_size is None:
        arguments.microbatch_size = min(MICROBATCH_SIZE, arguments.batch_size)
    check_soft_batch(parser, arguments)
    check_learning_rate(parser, arguments)
    if arguments.microbatch_size == arguments.batch_size:
        arguments.microbatch_size = None
    if arguments.output is None:
        name = f"{Path(arguments.data).stem}-{arguments.optimizer}-{keras.backend.backend()}"
        arguments.output = Path("runs", name.replace(":", "-").lower())
    return arguments


def check_soft_batch(parser: Parser, arguments: argparse.Namespace) -> None:
    """Refuses sizes that do not go together."""
    size, microbatch, accumulate = (
        arguments.batch_size,
        arguments.microbatch_size,
        arguments.accumulate,
    )
    if microbatch > size:
        parser.error(
            f"--microbatch-size {microbatch} is more than a batch, --batch-size {size}; "
            f"give at most {size}, which computes a batch at once"
        )
    if accumulate > 1 and method_of(arguments.optimizer) in METHODS:
        parser.error(
            f"--accumulate {accumulate} does not go with --optimizer {arguments.optimizer}, which "
            f"needs several gradients of the same batch; give --batch-size {accumulate * size} "
            f"--microbatch-size {microbatch}"
        )


def check_learning_rate(parser: Parser, arguments: argparse.Namespace) -> None:
    """Refuses what sets the learning rate where something else does."""
    asked = [
        option
        for option, given in (
            ("--find-learning-rate", arguments.find_learning_rate),
            ("--warmup", arguments.warmup),
        )
        if given
    ]
    if asked and method_of(arguments.optimizer) in CONTROLLED:
        parser.error(
            f"{asked[0]} does not go with --optimizer {arguments.optimizer}, which chooses its "
            "step sizes itself; leave it out, or take another METHOD"
        )
    if arguments.find_learning_rate and arguments.learning_rate is not None:
        parser.error("--find-learning-rate looks for what --learning-rate says; give one of them")
    if arguments.warmup >= arguments.epochs and arguments.warmup:
        parser.error(
            f"--warmup {arguments.warmup} leaves no epoch of --epochs {arguments.epochs} at the "
            "full rate; give fewer"
        )


def check_accumulate(arguments: argparse.Namespace, batches: int) -> None:
    """Refuses an update of more batches than the data have."""
    if arguments.accumulate > batches:
        raise UserError(
            f"--accumulate {arguments.accumulate} is more than the batches of an epoch; "
            f"give at most {batches}, or a smaller --batch-size than {arguments.batch_size}"
        )
