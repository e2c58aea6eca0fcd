"""PyTorch: updates under a condition."""

import contextlib
import sys

import torch

from keras_cool.keras_private import in_stateless_scope


def apply(optimizer, gradients, variables):
    """Lets the optimizer update the variables."""
    optimizer.apply(gradients, variables)


def writing_after(tensors):
    """Returns the context in which nothing is written where the tensors cannot be computed: any."""
    return contextlib.nullcontext()


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
    """Returns `t + factor * o` for each pair of tensors.

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
    """Returns the sum of the squares of `e / (atol + rtol * max(|p|, |q|))`, a scalar.

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


def number_of_replicas():
    """One: `fit` on PyTorch runs one process's share of the data."""
    return 1


def sum_over_replicas(loss, gradients):
    """Nothing to do."""
    return loss, gradients


def join_over_replicas(tensors):
    """Joins tensors, samples first, over the replicas: there is one.

    Args, returns: As in `keras_cool/backend/jax/updates.py`.
    """
    return tensors, lambda tensor: tensor, 1.0


def accumulate(variables, tensors, scale, fresh, places):
    """Adds `scale` times each tensor to its variable, or sets it to that where it is fresh.

    Args: As in `keras_cool/backend/jax/updates.py`.
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
    """Assigns the values to the variables unless the scalar `condition` is true."""
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


are_finite = all_finite  # outside of a step
