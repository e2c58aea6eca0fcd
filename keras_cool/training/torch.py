"""PyTorch: the step runs without recording; only an evaluation records."""

import keras
import torch

from keras_cool.keras_private import all_layers


class BackendStep:
    """Runs the common step as `train_step`."""

    def train_step(self, data):
        if self.takes_plain_step():
            return super().train_step(data)
        with torch.no_grad():
            return self.run_step(data)

    def make_train_function(self, force=False):
        """Makes the training function, for layers that can be evaluated at a point."""
        wrapped = [
            layer.name
            for layer in all_layers(self)
            if isinstance(layer, keras.layers.TorchModuleWrapper) and layer.trainable_variables
        ]
        if wrapped and not self.takes_plain_step():
            raise ValueError(
                f"The layers {wrapped} wrap a `torch.nn.Module`, which reads its own parameters "
                "and not the values at the point of an evaluation, so that it would not be "
                "trained. Write them with Keras layers, or compile with a plain Keras optimizer."
            )
        super().make_train_function(force)


class SameRandomNumbers:
    """A context that, entered again, gives the random numbers of the first time once more.

    Keras' layers without a seed draw from PyTorch's own generators, which no variable holds.
    """

    def __init__(self):
        self._first = None

    def __enter__(self):
        self._after = _random_state()
        if self._first is None:
            self._first = self._after
            self._after = None
        else:
            _set_random_state(self._first)

    def __exit__(self, *exception):
        if self._after is not None:
            _set_random_state(self._after)


def _random_state():
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state):
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def apply(optimizer, gradients, variables):
    """Lets the optimizer update the variables."""
    optimizer.apply(gradients, variables)


def apply_if(condition, update, *values):
    """Runs `update(*values)` if the scalar `condition` is true."""
    if condition:
        update(*values)


def all_finite(tensors):
    """Whether every entry of every tensor is finite, as a scalar boolean tensor."""
    total = torch.stack([t.sum().float() for t in tensors]).sum()
    if torch.isfinite(total):  # one pass over the memory, where a look at each entry takes four
        return torch.isfinite(total)
    # Something is not finite, or the sum of finite entries has overflowed.
    return torch.stack([torch.isfinite(t).all() for t in tensors]).all()


def while_loop(cond, body, loop_vars):
    """`keras.ops.while_loop`."""
    return keras.ops.while_loop(cond, body, loop_vars)


def number_of_replicas():
    """One: `fit` on PyTorch runs one process's share of the data."""
    return 1


def sum_over_replicas(loss, gradients):
    """Nothing to do."""
    return loss, gradients
