"""`value_and_grad` on PyTorch: `torch.autograd.grad` on leaves of its own."""

import threading

import torch
from keras import tree

from keras_cool.keras_private import get_keras_mask, set_keras_mask

_nesting = threading.local()


def value_and_grad(objective, scope_at, tensors):
    """Gives `(value, aux, gradients)` of `objective(tensors, scope) -> (value, aux)`.

    The scope, from `scope_at(tensors)`, stays open while the gradients are taken: a rematerialised
    layer reads its variables once more then.
    """
    nested = getattr(_nesting, "depth", 0) > 0
    _nesting.depth = getattr(_nesting, "depth", 0) + 1
    try:
        with torch.enable_grad():
            leaves = [_leaf(t, nested) for t in tensors]
            with scope_at(leaves) as scope:
                value, aux = objective(leaves, scope)
                gradients = _gradients(value, leaves, nested)
    finally:
        _nesting.depth -= 1
    if not nested:
        value, aux = tree.map_structure(_detach, (value, aux))
    return value, aux, gradients


def densify(gradient, tensor):
    """Gives `gradient` as a tensor: zeros like `tensor` where it is `None`."""
    return torch.zeros_like(tensor) if gradient is None else gradient


def _leaf(tensor, nested):
    # Inside another `value_and_grad` the tensor may hang on the outer one's: keep it in the graph.
    if nested and tensor.requires_grad:
        return tensor.view_as(tensor)
    return tensor.detach().requires_grad_()


def _gradients(value, leaves, nested):
    if not leaves or not value.requires_grad:
        return [None] * len(leaves)
    return list(torch.autograd.grad(value, leaves, create_graph=nested, allow_unused=True))


def _detach(x):
    if not isinstance(x, torch.Tensor):
        return x
    detached = x.detach()
    mask = get_keras_mask(x)
    if mask is not None:
        set_keras_mask(detached, mask)
    return detached
