"""PyTorch: random numbers that come again, and a loop over micro-batches."""

import keras
import torch

from keras_cool.keras_private import in_stateless_scope


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
    total = sum((t.sum().float() for t in tensors), torch.zeros(()))
    if torch.isfinite(total):  # one pass over the memory, where a look at each entry takes four
        return torch.isfinite(total)
    # Something is not finite, or the sum of finite entries has overflowed.
    return torch.stack([torch.isfinite(t).all() for t in tensors]).all()


def all_finite_if(condition, tensors):
    """Whether `condition` is true and every entry of every tensor is finite."""
    return all_finite(tensors) if condition else torch.zeros_like(condition)


def scalar_of_microbatch_if(condition, function):
    """Gives the float32 scalar `function()` if `condition` is true, and 0 otherwise."""
    return function() if condition else torch.zeros((), device=condition.device)


def while_loop(cond, body, loop_vars):
    """`keras.ops.while_loop`."""
    return keras.ops.while_loop(cond, body, loop_vars)


def number_of_replicas():
    """One: `fit` on PyTorch runs one process's share of the data."""
    return 1


def sum_over_replicas(loss, gradients):
    """Nothing to do."""
    return loss, gradients


def over_microbatches(body, initial_state, batch, size):
    """Runs `body` on one micro-batch after another and adds up what it gives.

    Args, returns: As in `keras_cool/backend/jax.py`.
    """
    samples = batch[0].shape[0]
    sums, state, pieces = None, None, []
    for i, start in enumerate(range(0, samples, size)):
        microbatch = [x[start : start + size] for x in batch]
        share = microbatch[0].shape[0] / samples
        more, state, outputs, last = body(state if i else initial_state(), microbatch, share)
        sums = _add(sums, more, in_place=i > 1) if i else more
        pieces.append(outputs)
        del more
    return sums, state, [torch.cat(parts) for parts in zip(*pieces, strict=True)], last


def _add(sums, more, in_place):
    # Gradients as autograd gives them may share memory; only sums of them are ours to write to.
    for i in range(len(sums)):
        sums[i] = sums[i].add_(more[i]) if in_place else sums[i] + more[i]
        more[i] = None  # not a gradient longer in memory than need be
    return sums


def accumulate(variables, tensors, scale, first):
    """Adds `scale` times each tensor to its variable, or sets it to that if `first` is true."""
    first, in_place = bool(first), not in_stateless_scope()
    for variable, tensor in zip(variables, tensors, strict=True):
        value = variable.value
        tensor, factor = tensor.to(value.dtype), torch.as_tensor(scale, dtype=value.dtype)
        if in_place and first:
            torch.mul(tensor, factor, out=value.data)
        elif in_place:
            value.data.addcmul_(tensor, factor)  # one pass over the memory
        else:
            variable.assign(tensor * factor if first else value + tensor * factor)


def gradients_of_all_replicas(gradients):
    """The gradients, as they are: there is one replica."""
    return gradients


def on_all_replicas(variable, function):
    """Runs `function()`, outside of a step, wherever `variable` has a copy."""
    with torch.no_grad():
        function()


def number_in_step(variable):
    """What stands in a step for an attribute whose number `variable` holds: the number itself.

    Nothing is compiled in, and some functions of PyTorch take nothing else.
    """
    return float(variable.value)
