"""What `gradients.py` does, inside `torch.vmap` and other transforms of `torch.func`."""

import torch
from keras import tree


def is_transformed():
    """Whether `torch.vmap` (`keras.ops.vectorized_map`) or another transform of `torch.func` runs,
    where no tensor can be told to require gradients."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def value_and_grad(objective, scope_at, tensors):
    """Returns what `gradients.value_and_grad` does."""
    reached = set()

    def function(tensors):
        leaves = [_Watch.apply(t, reached, i) for i, t in enumerate(tensors)]
        with scope_at(leaves) as scope:
            return objective(leaves, scope)

    call = Flat(function)
    gradients, results = torch.func.grad(call, has_aux=True)(list(tensors))
    return *call.packed(results), _reached(gradients, reached)


def vjp(function, tensors):
    """Returns what `gradients.vjp` does."""
    reached = set()
    call = Flat(lambda ts: function([_Watch.apply(t, reached, i) for i, t in enumerate(ts)]))
    _, products, results = torch.func.vjp(call, list(tensors), has_aux=True)

    def pull_back(cotangent):
        reached.clear()
        return _reached(products(cotangent)[0], reached)

    return *call.packed(results), pull_back


class _Watch(torch.autograd.Function):
    """The identity; its backward pass notes that a gradient came through: `torch.func` gives zeros
    where there is none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor, reached, index):
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.reached, ctx.index = inputs

    @staticmethod
    def backward(ctx, gradient):
        ctx.reached.add(ctx.index)
        return gradient, None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        return tangent.view_as(tangent)


def _reached(gradients, reached):
    return [g if i in reached else None for i, g in enumerate(gradients)]


class Flat:
    """A function that returns its value and, as a list, all tensors that it gives: `torch.func`
    knows no others."""

    def __init__(self, function):
        self._function = function
        self._nest = None

    def __call__(self, tensors):
        self._nest = self._function(tensors)
        value = self._nest[0]
        return value, [x for x in tree.flatten(self._nest) if isinstance(x, torch.Tensor)]

    def packed(self, results):
        """Returns what the function gave, with the tensors as they have come out."""
        results = iter(results)
        return tree.map_structure(
            lambda x: next(results) if isinstance(x, torch.Tensor) else x, self._nest
        )
