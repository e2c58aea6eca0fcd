"""PyTorch: copies of the state of training, put back later, and random numbers that come again."""

import contextlib

import keras
import numpy as np
import torch

from keras_cool.keras_private import all_layers


class SameRandomNumbers:
    """A context that, entered again, gives the random numbers of the first time once more.

    Keras' layers without a seed draw from PyTorch's own generators, which no variable holds.
    """

    def __init__(self):
        self._first = None

    def __enter__(self):
        self._after = random_state()
        if self._first is None:
            self._first = self._after
            self._after = None
        else:
            set_random_state(self._first)

    def __exit__(self, *exception):
        if self._after is not None:
            set_random_state(self._after)

    def were_drawn(self):
        """Whether the generators have moved on since the context was entered first."""
        if self._first is None:
            return False
        pairs = zip(self._first, random_state(), strict=True)
        return not all(a is b or torch.equal(a, b) for a, b in pairs)


def random_state():
    """The state of PyTorch's own generators, from which layers without a seed draw."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def set_random_state(state):
    """Puts back what `random_state` gave."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


@contextlib.contextmanager
def keeping_mode(model):
    """A context in which the model predicts or is evaluated; afterwards it trains if it did before.

    The random numbers go on where they were too: PyTorch's data loaders draw one for each pass.
    """
    training, state = model.training, random_state()
    try:
        yield
    finally:
        set_random_state(state)
        if model.training != training:
            model.train(training)


def further_state(model):
    """The state of training that no Keras variable holds: buffers of wrapped PyTorch modules."""
    buffers = [b for layer in all_layers(model) for b in layer.buffers()]
    return list({id(b): b for b in buffers}.values())


def copies(variables):
    """Copies of the values of variables. Outside of a step."""
    return [_tensor(v).clone() for v in variables]


def assign_copies(variables, values):
    """Assigns to variables what `copies` made of them, as it was or `as_bytes`.

    The values stay the caller's.
    """
    for variable, value in zip(variables, values, strict=True):
        tensor = _tensor(variable)
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value).view(tensor.dtype).reshape(tensor.shape)
        tensor.copy_(value)


def as_bytes(value):
    """One of the `copies` as a NumPy array of its bytes."""
    return value.cpu().reshape(-1).view(torch.uint8).numpy()


def _tensor(variable):
    return (variable.value if isinstance(variable, keras.Variable) else variable).detach()


def separate(variables):
    """Nothing to do: an assignment copies."""


def running_mean(mean, variables, count):
    """The mean of the values that variables have had, the present ones as the last of `count`.

    Args, returns: As in `keras_cool/backend/jax/snapshots.py`.
    """
    values = copies(variables)
    if mean is None:
        return [v.to(torch.promote_types(v.dtype, torch.float32)) for v in values]
    pairs = zip(mean, values, strict=True)
    return [m + (v.to(m.dtype) - m) / count for m, v in pairs]
