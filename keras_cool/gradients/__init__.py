"""`value_and_grad`: value and gradients of a function of a list of tensors, on any backend."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_cool import backend
from keras_cool.keras_private import OverlayScope

densify = backend.gradients.densify
# Whether what a layer assigns to a weight that is differentiated by holds after Keras' own step.
KEEPS_ASSIGNED = backend.gradients.KEEPS_ASSIGNED
# Whether outputs still have their Keras masks after Keras' own step has taken gradients.
KEEPS_MASKS = backend.gradients.KEEPS_MASKS


def value_and_grad(function: Callable, has_aux: bool = False) -> Callable:
    r"""Makes a function that returns the value and the gradients of `function`.

    For \(L = f(t_1, \dots, t_n)\), the result gives
    \((L, [\partial L / \partial t_1, \dots, \partial L / \partial t_n])\) by reverse-mode automatic
    differentiation. It nests: a function that calls `value_and_grad` inside can be differentiated
    again, which gives gradient penalties and Hessian-vector products. `keras.Variable`s that the
    function assigns (seeds, the statistics of a batch normalisation) have their new values
    afterwards, on every backend.

    On PyTorch, as any result there, value and gradients stay in the graph if something that
    requires gradients takes part: a `call` or `compute_loss` that Keras' own training step
    differentiates may use them. Under `torch.no_grad()` they do not.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> square = kc.value_and_grad(lambda tensors: keras.ops.sum(tensors[0] ** 2))
    >>> value, gradients = square([keras.ops.convert_to_tensor([1.0, 2.0])])
    >>> float(value), [float(g) for g in gradients[0]]
    (5.0, [2.0, 4.0])

    Args:
        function: A function of one argument, a list of floating-point tensors of any shape, that
            returns a scalar tensor, shape `()`. With `has_aux=True` it returns a pair: the scalar
            and any nest of further tensors, which is handed through.
        has_aux: Whether `function` returns such a pair. Defaults to `False`.

    Returns:
        A function of a list of tensors (or of `keras.Variable`s, which are read). It returns
        `(value, gradients)`, or `((value, aux), gradients)` with `has_aux=True`. `gradients` has an
        entry for each tensor: a tensor of its shape and dtype, or `None` where the value does not
        depend on it. On TensorFlow the gradient of a gather (an embedding) is a `tf.IndexedSlices`.

    Raises:
        ValueError: If the value is not a scalar, or with `has_aux=True` if `function` returns no
            pair.
        TypeError: If the value or one of the tensors is not of a floating-point dtype, or if the
            tensors are not in a list.

    Reference:
        Griewank and Walther, 2008, "Evaluating Derivatives", 2nd edition, chapter 3 (the reverse
        mode).
    """

    def differentiable_twice(tensors: list) -> Any:
        with backend.gradients.differentiable_twice():
            return function(tensors)

    return _evaluation(differentiable_twice, has_aux, variables=())


def value_and_grad_at(function: Callable, variables: list, tables: Sequence = ()) -> Callable:
    """Makes a function of a point, a list of tensors, that evaluates `function` there.

    It is `value_and_grad(..., has_aux=True)` of a function that reads `variables`, with the values
    of the point in their place. No variable changes by it. What the point has beyond the variables
    are the arguments of `function`. The gradients of `tables`, variables among them, are
    `RowSparse` where `Embedding` layers alone read them.
    """
    count, rows_of = len(variables), {id(table) for table in tables}
    places = {id(v): i for i, v in enumerate(variables) if id(v) in rows_of}
    return _evaluation(lambda point: function(*point[count:]), True, variables, places)


def _evaluation(
    function: Callable, has_aux: bool, variables: Sequence, tables: dict | None = None
) -> Callable:
    def evaluate(tensors: list) -> tuple[Any, list]:
        assigned = []

        def scope_at(tensors: list) -> OverlayScope:
            return OverlayScope(zip(variables, tensors[: len(variables)], strict=True))

        def objective(tensors: list, scope: OverlayScope) -> tuple[Any, Any]:
            # What is assigned inside has to come out as an output, or a JAX tracer leaks.
            result = function(tensors)
            value, aux = split_pair(result) if has_aux else (result, None)
            assigned[:] = [variable for variable, _ in scope.updates]
            return _checked_scalar(value), (aux, [new for _, new in scope.updates])

        tensors = [checked_tensor(t) for t in checked_list(tensors)]
        value, (aux, new), gradients = backend.gradients.value_and_grad(
            objective, scope_at, tensors, tables
        )
        for variable, new_value in zip(assigned, new, strict=True):
            variable.assign(new_value)
        return ((value, aux) if has_aux else value), gradients

    return evaluate


def split_pair(result: Any) -> tuple[Any, Any]:
    """Returns what a function returned under `has_aux=True`, if it is a pair."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
            "With `has_aux=True` the function must return a pair `(value, aux)`. "
            f"It returned: {_describe(result)}. Return a pair, or drop `has_aux=True`."
        )
    return result


def _checked_scalar(value: Any) -> Any:
    if not keras.ops.is_tensor(value) or len(value.shape) != 0:
        raise ValueError(
            "The function under `value_and_grad` must return a scalar tensor, shape `()`. "
            f"It returned: {_describe(value)}. Reduce it first, for example with "
            "`keras.ops.mean(value)`; hand further outputs through with `has_aux=True`."
        )
    return checked_floating(value, "the value")


def checked_list(tensors: Any, transform: str = "value_and_grad") -> Sequence:
    """Returns the tensors, if they are in a list."""
    if not isinstance(tensors, list | tuple):
        line = "list(tensors.values())" if isinstance(tensors, dict) else "[tensor]"
        raise TypeError(
            f"`{transform}` differentiates by a list of tensors, and was given "
            f"{_describe(tensors)}. Write `kc.{transform}(function)({line})`; `function` is "
            "called with that list."
        )
    return tensors


def checked_tensor(tensor: Any) -> Any:
    """Returns a tensor to differentiate by; a `keras.Variable` is read."""
    if isinstance(tensor, keras.Variable):
        tensor = tensor.value
    return checked_floating(keras.ops.convert_to_tensor(tensor), "a tensor to differentiate by")


def checked_floating(tensor: Any, what: str) -> Any:
    """Returns a tensor, if it is one of floating-point numbers."""
    if not keras.ops.is_tensor(tensor):
        raise TypeError(f"Gradients need tensors, and {what} is {_describe(tensor)}.")
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "float" not in dtype:
        raise TypeError(
            f"Gradients need floating-point tensors, and {what} has dtype {dtype}. "
            "Convert it with `keras.ops.cast(x, 'float32')`."
        )
    return tensor


def _describe(value: Any) -> str:
    if keras.ops.is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{value!r} of type {type(value).__name__}"


__all__ = ["KEEPS_ASSIGNED", "KEEPS_MASKS", "densify", "value_and_grad", "value_and_grad_at"]
