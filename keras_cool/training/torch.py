"""PyTorch: the step runs without recording; only an evaluation records."""

import torch


class BackendStep:
    """Runs the common step as `train_step`."""

    def train_step(self, data):
        if self.takes_plain_step():
            return super().train_step(data)
        with torch.no_grad():
            return self.run_step(data)


def apply(optimizer, gradients, variables):
    """Lets the optimizer update the variables."""
    optimizer.apply(gradients, variables)


def apply_if(condition, update, *values):
    """Runs `update(*values)` if the scalar `condition` is true."""
    if condition:
        update(*values)


def number_of_replicas():
    """One: `fit` on PyTorch runs one process's share of the data."""
    return 1


def sum_over_replicas(loss, gradients):
    """Nothing to do."""
    return loss, gradients
