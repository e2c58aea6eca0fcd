"""Whether a training has diverged or learned nothing, and what to do about it."""

import argparse
import math

import keras
import numpy as np

from program.errors import UserError
from program.optimizers import CONTROLLED, method_of


class DivergenceCheck(keras.callbacks.Callback):
    """Keeps the loss before any update, and ends a training whose test loss is not finite."""

    first_loss = math.nan

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        if math.isnan(self.first_loss):
            self.first_loss = logs["loss"]

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        if not math.isfinite(logs["val_loss"]):
            rate = float(self.model.optimizer.learning_rate)
            raise UserError(
                f"the test loss is not finite after epoch {epoch + 1}; "
                f"give a --learning-rate below {rate:g}"
            )

    def advice(self, arguments: argparse.Namespace, y: np.ndarray, history: list[dict]) -> str:
        """Says that the model has not learned, and what to do; nothing of one that has."""
        losses = [self.first_loss, *(row["loss"] for row in history)]
        shares = np.bincount(y) / len(y)
        guessing = -float(shares @ np.log(shares))  # what the best constant answer costs
        if losses[-1] < 0.98 * guessing:
            return ""
        ended = f"the loss ended at {losses[-1]:.4g}, and guessing by the class sizes gives "
        ended += f"{guessing:.4g}"
        rate = rate_advice(arguments)
        if max(losses) > 1.5 * max(losses[0], guessing):
            return f"The training diverged: {ended}.\nThe learning rate is too high: {rate}."
        rate = rate.replace("below", "above")
        return f"The model has learned nothing yet: {ended}.\nGive more --epochs, or {rate}."


def rate_advice(arguments: argparse.Namespace) -> str:
    """Says how to get a lower learning rate."""
    if method_of(arguments.optimizer) in CONTROLLED:
        return "leave --learning-rate out, or take another --optimizer"
    find = "run it with --find-learning-rate"
    if arguments.learning_rate:
        return f"give a --learning-rate below {arguments.learning_rate:g}, or {find}"
    return find


def print_skipped_steps(logs: dict) -> None:
    """Prints how many steps were skipped, if any were."""
    if skipped := int(logs.get("skipped_steps", [0])[-1]):
        print(f"\n{skipped} steps were skipped, their gradients were not finite: lower the rate.")
