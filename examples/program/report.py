"""What is said of a run: the table at its end, and the title of its picture."""

import argparse

import keras


def soft_batch(arguments: argparse.Namespace) -> str:
    """Gives the samples of an update in words."""
    size, microbatch = arguments.batch_size, arguments.microbatch_size
    batch = f"{arguments.accumulate} x {size}" if arguments.accumulate > 1 else str(size)
    return f"{batch}, {microbatch} at a time" if microbatch else batch


def title(arguments: argparse.Namespace) -> str:
    """Gives optimizer, backend, data and soft batch on one line."""
    run = f"{arguments.optimizer} on {keras.backend.backend()}, {arguments.data}"
    return f"{run}, batch of {soft_batch(arguments)}"


def report(arguments: argparse.Namespace, history: list[dict], batch_time: str) -> str:
    """Gives the closing table."""
    last = history[-1]
    cells = {
        "backend": keras.backend.backend(),
        "optimizer": arguments.optimizer,
        "batch": soft_batch(arguments),
        "gradient evaluations": str(last["gradient_evaluations"]),
        "loss (train)": f"{last['loss']:.4f}",
        "loss (test)": f"{last['val_loss']:.4f}",
        "test accuracy": f"{last['val_accuracy']:.4f}",
        "time a batch*": batch_time,
    }
    width = max(map(len, cells))
    lines = [f"{head:<{width}}  {cell}" for head, cell in cells.items()]
    return "\n".join(["", *lines, "* median over all batches but the first, which compiles"])
