"""PyTorch: random numbers that come again, and a loop over micro-batches."""

import contextlib
import sys

import keras
import numpy as np
import torch

from keras_cool.keras_private import all_layers, in_stateless_scope


def allow_float64():
    """Nothing to do: PyTorch computes in float64 where it is asked to."""


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
    """Whether `condition` is true and every entry of every tensor that `tensors()` gives finite."""
    return all_finite(tensors()) if condition else torch.zeros_like(condition)


def add_scaled(tensors, factor, others, into=None):
    """Gives `t + factor * o` for each pair of tensors.

    Args:
        tensors: List of tensors, the `t`.
        factor: Float, or scalar tensor.
        others: List of tensors, the `o`.
        into: One of the two lists, whose memory may be taken for the results, or `None`.
    """
    # Each in one pass over the memory, where product and sum take two.
    into = [None] * len(tensors) if into is None else into
    triples = zip(tensors, others, into, strict=True)
    if isinstance(factor, float):
        return [torch.add(t, o, alpha=factor, out=result) for t, o, result in triples]
    return [torch.addcmul(t, o, factor.to(t.dtype), out=result) for t, o, result in triples]


def sum_of_squared_errors(e, p, q, rtol, atol):
    """Gives the sum of the squares of `e / (atol + rtol * max(|p|, |q|))`, a scalar.

    Where `q` is not finite, the sum is not.
    """
    # The processor's cache is to hold a part through all the passes over it.
    size = 2**18 if p.device.type == "cpu" else max(p.numel(), 1)
    dtype = torch.promote_types(p.dtype, torch.float32)
    total = torch.zeros((), dtype=dtype, device=p.device)
    parts = (x.reshape(-1).split(size) for x in (e, p, q))
    for error, before, after in zip(*parts, strict=True):
        scale = torch.maximum(before.abs(), after.abs()).mul_(rtol).add_(atol)
        total += torch.div(error, scale, out=scale).square_().sum(dtype=dtype)
        # An infinite point has an infinite scale: `0 * after` keeps it from passing as no error.
        total += 0 * after.sum(dtype=dtype)
    return total


def scalar_of_microbatch_if(condition, function, dtype):
    """Gives the scalar `function()` of the dtype if `condition` is true, and 0 otherwise."""
    zero = torch.zeros((), dtype=getattr(torch, dtype), device=condition.device)
    return function() if condition else zero


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


def accumulate(variables, tensors, scale, fresh, places):
    """Adds `scale` times each tensor to its variable, or sets it to that where it is fresh.

    Args: As in `keras_cool/backend/jax.py`.
    """
    fresh, in_place = fresh.tolist(), not in_stateless_scope()
    for variable, tensor, place in zip(variables, tensors, places, strict=True):
        value = variable.value
        tensor, factor = tensor.to(value.dtype), scale.to(value.dtype)
        if in_place and fresh[place]:
            torch.mul(tensor, factor, out=value.data)
        elif in_place:
            value.data.addcmul_(tensor, factor)  # one pass over the memory
        else:
            variable.assign(tensor * factor if fresh[place] else value + tensor * factor)


def undo_unless(condition, variables, values):
    """Gives the variables the values unless the scalar `condition` is true."""
    if not condition:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def known_values(tensor):
    """The values of a tensor as a NumPy array."""
    return tensor.detach().cpu().numpy()


def of_all_replicas(gradients, weight):
    """Gradients and weight, as they are: there is one replica."""
    return gradients, weight


def gradients_of_all_replicas(gradients):
    """The gradients, as they are: there is one replica."""
    return gradients


def present_trace():
    """What compares equal for two places of a step of which one may use the other's tensors: not
    for the body of a loop and what comes after it. Tensors here have values at once."""
    return


def gradients_of_keras_step(gradients, variables):
    """What Keras' own step gives the optimizer for variables that the loss does not depend on.

    As they are: `None`, of which the optimizer warns.

    Args:
        gradients: List of tensors or `None`.
        variables: List of the `keras.Variable`s.
    """
    return gradients


def replica():
    """The number of the replica that computes: there is one."""
    return 0


def on_all_replicas(variable, function):
    """Runs `function()`, outside of a step, wherever `variable` has a copy."""
    with torch.no_grad():
        function()


def number_in_step(variable):
    """What stands in a step for an attribute whose number `variable` holds: the number itself.

    Nothing is compiled in, and some functions of PyTorch take nothing else. For 0 it is the
    smallest positive number, so that `if self.momentum != 0` keeps the state up to date.
    """
    return float(variable.value) or sys.float_info.min


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
    """Gives variables what `copies` made of them, as it was or `as_bytes`.

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


are_finite = all_finite  # outside of a step
