"""`RunningLoss`: the loss of the steps since a moment, out of the running mean that Keras shows."""

import math

import numpy as np


class RunningLoss:
    """The metric with the running mean of an epoch's loss, which every training step of Keras
    updates with the loss of its batch and the number of its samples.

    Args:
        model: A compiled Keras model.
        callback: The callback that asks, for its name.

    Raises:
        ValueError: If the model has no such metric.
    """

    def __init__(self, model, callback):
        means = [m for m in model.metrics if m.name == "loss" and hasattr(m, "total")]
        if not means:
            raise ValueError(
                f"{type(callback).__name__} needs the loss of a step, from the metric 'loss' that "
                f"every compiled model has. The metrics of {type(model).__name__} are "
                f"{[m.name for m in model.metrics]}. Give it keras.metrics.Mean(name='loss'), and "
                "update that in `train_step` with the loss and the number of samples."
            )
        self._mean = means[0]
        self._total = self._count = 0.0
        self.has_met_a_bad_loss = False

    def start(self):
        """Begins anew: `since_start` counts from here."""
        self._total, self._count = self._present()
        self.has_met_a_bad_loss = False

    def leave_out_bad_losses(self):
        """Lets the mean begin anew if a loss was not finite, after which it would never be again.

        `has_met_a_bad_loss` is true from then on, until `start`; and the metric has the mean of the
        losses after it alone.

        Returns:
            Whether it was so.
        """
        if math.isfinite(self._present()[0]):
            return False
        self.reset()
        self.has_met_a_bad_loss = True
        return True

    def reset(self):
        """The same, and sets the metric itself to zero, which makes the next losses exact."""
        self._mean.reset_state()
        self._total = self._count = 0.0

    def since_start(self):
        """The mean loss of all samples since `start`, as a float; `None` if there were none."""
        total, count = self._present()
        samples = count - self._count
        return (total - self._total) / samples if samples > 0 else None

    def keep_over_epochs(self):
        """Goes on from here though the metric is going to be reset, as between two epochs."""
        total, count = self._present()
        self._total, self._count = self._total - total, self._count - count

    def _present(self):
        return tuple(float(np.asarray(v.numpy())) for v in (self._mean.total, self._mean.count))


def is_above(loss, factor, best):
    """Whether a loss is more than `factor` times the best one; of a best one below zero, whether it
    is above that by as many times its size.

    Args:
        loss: Float; one that is not finite is above.
        factor: Float, at least 1.
        best: Float.
    """
    return not math.isfinite(loss) or loss > best + (factor - 1) * abs(best)
