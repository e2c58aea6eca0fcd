"""`value_and_grad` on PyTorch: `torch.autograd.grad` on leaves of its own."""

import contextlib

import keras
import torch
from keras import tree
from torch.nn.attention import SDPBackend, sdpa_kernel

from keras_cool.backend.assigned_leaves import AssignedLeaves
from keras_cool.backend.row_sparse import RowSparse, with_rows
from keras_cool.backend.torch import transformed
from keras_cool.keras_private import GatheringRows, get_keras_mask, set_keras_mask

KEEPS_ASSIGNED = True
KEEPS_MASKS = True


def value_and_grad(objective, scope_at, tensors, tables=None):
    """Returns `(value, aux, gradients)` of `objective(tensors, scope) -> (value, aux)`.

    The scope, from `scope_at(tensors)`, stays open while the gradients are taken: a rematerialised
    layer reads its variables once more then. `tables` as on JAX.
    """
    if transformed.is_transformed():
        return transformed.value_and_grad(objective, scope_at, tensors)
    recording = torch.is_grad_enabled()  # by Keras' own step, or by another `value_and_grad`
    with torch.enable_grad():
        leaves = [_leaf(t, recording) for t in tensors]
        with scope_at(leaves) as scope:
            assigned = AssignedLeaves(scope, leaves, _new_leaf, torch.add)
            gather = _GatheredRows(tables or {}, leaves)
            with GatheringRows(gather) if tables else contextlib.nullcontext():
                value, aux = objective(leaves, scope)
            shapes, count = [leaf.shape for leaf in leaves], len(assigned.all_leaves())
            leaves = [*assigned.all_leaves(), *gather.rows]
            nested = recording and _depends_on_others(value, leaves)
            gradients = _gradients(value, leaves, nested)
            gradients, by_rows = assigned.joined(gradients[:count]), gradients[count:]
            gradients = with_rows(gradients, gather.found, by_rows, shapes)
    if not nested:
        value, aux = tree.map_structure(_detach, (value, aux))
    return value, aux, gradients


class _GatheredRows:
    """Looks rows up in tables of which no gradient is taken; of the rows it is.

    Args:
        tables: Dictionary of the places of tables among the tensors, by the ids of the variables.
        leaves: List of tensors, the values of the tables among them.
    """

    def __init__(self, tables, leaves):
        self._tables, self._leaves = tables, list(leaves)
        self.found, self.rows = [], []

    def __call__(self, table, indices):
        """Returns the rows of a table, a `keras.Variable`, or `None`: they are to be looked up as
        ever. So in a transform of `torch.func`, and in a part that is computed again."""
        place = self._tables.get(id(table))
        if place is None or table.value is not self._leaves[place]:
            return None
        if transformed.is_transformed() or _is_computed_again():
            return None
        indices = torch.as_tensor(indices, device=table.value.device).long()
        rows = keras.ops.take(table.value.detach(), indices, axis=0).requires_grad_()
        self.found.append((place, indices))
        self.rows.append(rows)
        return rows


def _is_computed_again():
    """Whether a part runs whose tensors are not kept but computed again, as in `keras.remat`."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def vjp(function, tensors):
    """Returns `(value, aux, pull_back)` of `function(tensors) -> (value, aux)`.

    Args, returns: As in `keras_cool/backend/jax/gradients.py`.
    """
    if transformed.is_transformed():
        return transformed.vjp(function, tensors)
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [_leaf(t, recording) for t in tensors]
        value, aux = function(leaves)
    nested = recording and _depends_on_others(value, leaves)

    def pull_back(cotangent):
        if not value.requires_grad:
            return [None] * len(leaves)
        recorded = nested or (torch.is_grad_enabled() and cotangent.requires_grad)
        options = {"retain_graph": True, "create_graph": recorded, "allow_unused": True}
        return list(torch.autograd.grad(value, leaves, cotangent, **options))

    if nested:
        return value, aux, pull_back
    return *tree.map_structure(_detach, (value, aux)), pull_back


def jvp(function, tensors, tangents):
    """Returns `(value, aux, tangent)` of `function(tensors) -> (value, aux)`, by forward mode.

    Args: As in `keras_cool/backend/jax/gradients.py`.
    """
    call = transformed.Flat(function)
    # The fast kernels of attention have no forward mode.
    with sdpa_kernel(SDPBackend.MATH):
        _, tangent, results = torch.func.jvp(
            call, (list(tensors),), (list(tangents),), has_aux=True
        )
    value, aux = call.packed(results)
    return value, aux, tangent


def over_samples(function, tensors):
    """Returns what `function(tensors)`, a list of tensors, gives for each sample.

    Args, returns: As in `keras_cool/backend/jax/gradients.py`.
    """
    return torch.vmap(function, randomness="same")(tensors)


def jacobian(function, vector, rows):
    """Returns `(value, aux, jacobian)` of `function(vector) -> (value, aux)`, by reverse mode.

    Args: As in `keras_cool/backend/jax/gradients.py`.
    """
    if transformed.is_transformed():
        value, aux, pull_back = vjp(lambda tensors: function(*tensors), [vector])
        basis = torch.eye(len(value), dtype=value.dtype, device=value.device)
        by_row = torch.vmap(lambda row: densify(pull_back(row)[0], vector), chunk_size=rows)
        return value, aux, by_row(basis)
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = _leaf(vector, recording)
        value, aux = function(leaf)
        nested = recording and _depends_on_others(value, [leaf])
        basis = torch.eye(len(value), dtype=value.dtype, device=value.device)
        parts = [_rows(value, leaf, part, nested) for part in basis.split(rows)]
    if not nested:
        value, aux = tree.map_structure(_detach, (value, aux))
    return value, aux, torch.cat(parts)


def _rows(value, leaf, basis, nested):
    if not value.requires_grad:
        return leaf.new_zeros(len(basis), len(leaf))
    (rows,) = torch.autograd.grad(
        value,
        leaf,
        basis,
        retain_graph=True,
        create_graph=nested,
        is_grads_batched=True,
        materialize_grads=True,
    )
    return rows


def densify(gradient, tensor):
    """Returns `gradient` as a tensor: zeros like `tensor` where it is `None`, `RowSparse` made
    dense."""
    if isinstance(gradient, RowSparse):
        return gradient.dense()
    return torch.zeros_like(tensor) if gradient is None else gradient


def _leaf(tensor, recording):
    # What hangs on an outer differentiation stays in its graph.
    if recording and tensor.requires_grad:
        return tensor.view_as(tensor)
    return tensor.detach().requires_grad_()


def _new_leaf(value):
    return torch.as_tensor(value).detach().clone().requires_grad_()


def _depends_on_others(value, leaves):
    """Whether `value` depends on tensors beside `leaves` that require gradients.

    Only then are the gradients differentiated again; to keep their graph costs memory.
    """
    if torch.compiler.is_compiling():  # which sees no graph, and frees what is not used
        return True
    own = {id(leaf) for leaf in leaves}
    seen, remaining = set(), [value.grad_fn]
    while remaining:
        node = remaining.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # of the nodes where a graph ends
        if variable is not None and id(variable) not in own:
            return True
        remaining += [n for n, _ in node.next_functions]
    return False


def _gradients(value, leaves, nested):
    if value.is_meta:  # Keras infers shapes: its conversions lose the graph there
        return [torch.zeros_like(leaf) for leaf in leaves]
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


def differentiable_twice():
    """The context in which the derivatives of a function have right derivatives: any."""
    return contextlib.nullcontext()


def allow_float64():
    """Nothing to do: PyTorch computes in float64 where it is asked to."""


def gradients_of_keras_step(gradients, variables):
    """What Keras' own step gives the optimizer for variables that the loss does not depend on.

    As they are: `None`, of which the optimizer warns.

    Args:
        gradients: List of tensors or `None`.
        variables: List of the `keras.Variable`s.
    """
    return gradients
