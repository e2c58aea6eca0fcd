"""Transforms of functions beside `value_and_grad`: `vjp`, `jvp`, `hvp`, `jacobian` and
`per_sample_gradients`, on any backend."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_cool import backend
from keras_cool.backend import vectors
from keras_cool.gradients import (
    checked_floating,
    checked_list,
    checked_tensor,
    densify,
    split_pair,
    value_and_grad,
)
from keras_cool.keras_private import OverlayScope, is_seed_state

ROWS = 128  # of a Jacobian, computed at a time


def vjp(function: Callable, has_aux: bool = False) -> Callable:
    r"""Makes a function that returns the value of `function`, and what pulls cotangents back.

    For \(y = f(t_1, \dots, t_n)\) with the Jacobians \(J_i = \partial y / \partial t_i\), a
    cotangent \(u\), shaped like \(y\), is pulled back to \((u^T J_1, \dots, u^T J_n)\): the
    vector-Jacobian products, by one pass of reverse mode each.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> x = keras.ops.convert_to_tensor([1.0, 2.0])
    >>> value, pullback = kc.vjp(lambda tensors: tensors[0] ** 2)([x])
    >>> [float(g) for g in pullback(keras.ops.convert_to_tensor([1.0, 10.0]))[0]]
    [2.0, 40.0]

    Args:
        function: A function of one argument, a list of floating-point tensors of any shape, that
            returns a floating-point tensor of any shape. With `has_aux=True` it returns a pair: the
            tensor and any nest of further tensors, which is handed through.
        has_aux: Whether `function` returns such a pair. Defaults to `False`.

    Returns:
        A function of a list of tensors (or of `keras.Variable`s, which are read). It returns
        `(value, pullback)`, or `((value, aux), pullback)` with `has_aux=True`.
        `pullback(cotangent)` may be called several times. It takes a tensor of the shape of the
        value, and returns a list with an entry for each tensor: one of its shape and dtype, or
        `None` where the value does not depend on it.

    Raises:
        ValueError: If a cotangent has another shape than the value, or with `has_aux=True` if
            `function` returns no pair.
        TypeError: If the value or one of the tensors is not of a floating-point dtype, or if the
            tensors are not in a list.

    Reference:
        Griewank and Walther, 2008, "Evaluating Derivatives", 2nd edition, section 3.2.
    """

    def evaluate(tensors: list) -> tuple[Any, Callable]:
        call = _Call("vjp", function, has_aux)
        value, aux, pull_back = backend.gradients.vjp(call, _checked("vjp", tensors))
        shape, dtype = tuple(value.shape), value.dtype

        def pullback(cotangent: Any) -> list:
            cotangent = ops.convert_to_tensor(cotangent, dtype)
            if tuple(cotangent.shape) != shape:
                raise ValueError(
                    f"A cotangent has the shape of the value, {shape}. It was given one of shape "
                    f"{tuple(cotangent.shape)}."
                )
            return pull_back(cotangent)

        return call.result(value, aux), pullback

    return evaluate


def jvp(function: Callable, has_aux: bool = False) -> Callable:
    r"""Makes a function that returns the value of `function` and its derivative in a direction.

    For \(y = f(t_1, \dots, t_n)\) with the Jacobians \(J_i = \partial y / \partial t_i\) and the
    tangents \(v_i\), the result gives \((y, \sum_i J_i v_i)\), the Jacobian-vector product,
    by forward mode: at about twice the cost of the value, with no memory of what was computed on
    the way.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> x = keras.ops.convert_to_tensor([1.0, 2.0])
    >>> v = keras.ops.convert_to_tensor([1.0, 10.0])
    >>> value, tangent = kc.jvp(lambda tensors: tensors[0] ** 2)([x], [v])
    >>> [float(t) for t in tangent]
    [2.0, 40.0]

    Args:
        function: As for `vjp`.
        has_aux: As for `vjp`.

    Returns:
        A function of a list of tensors (or of `keras.Variable`s, which are read) and a list of
        tangents, one of the shape of each tensor. It returns `(value, tangent)`, or
        `((value, aux), tangent)` with `has_aux=True`. The tangent has the shape of the value.

    Raises:
        ValueError: If there is not one tangent of its shape for each tensor, or with `has_aux=True`
            if `function` returns no pair.
        TypeError: As for `vjp`.

    Reference:
        Griewank and Walther, 2008, "Evaluating Derivatives", 2nd edition, section 3.1.
    """

    def evaluate(tensors: list, tangents: list) -> tuple[Any, Any]:
        call = _Call("jvp", function, has_aux)
        tensors = _checked("jvp", tensors)
        tangents = _checked_directions("jvp", "tangent", tensors, tangents)
        value, aux, tangent = backend.gradients.jvp(call, tensors, tangents)
        return call.result(value, aux), tangent

    return evaluate


def hvp(function: Callable, has_aux: bool = False) -> Callable:
    r"""Makes a function that returns value, gradients and a product with the Hessian.

    For \(L = f(t_1, \dots, t_n)\) with the Hessian \(H\) of all tensors together, and the vectors
    \(v = (v_1, \dots, v_n)\), the result gives \(L\), \(\nabla L\) and \(H v\), without the matrix:
    forward mode through the reverse mode, at about twice the cost of a gradient.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> cube = kc.hvp(lambda tensors: keras.ops.sum(tensors[0] ** 3))
    >>> x = keras.ops.convert_to_tensor([1.0, 2.0])
    >>> value, gradients, products = cube([x], [keras.ops.ones_like(x)])
    >>> float(value), [float(g) for g in gradients[0]], [float(p) for p in products[0]]
    (9.0, [3.0, 12.0], [6.0, 12.0])

    Args:
        function: As for `value_and_grad`: it returns a scalar.
        has_aux: Whether `function` returns a pair, the scalar and any nest of further tensors.
            Defaults to `False`.

    Returns:
        A function of a list of tensors (or of `keras.Variable`s, which are read) and a list of
        vectors, one of the shape of each tensor. It returns `(value, gradients, products)`, or
        `((value, aux), gradients, products)` with `has_aux=True`. Gradients and products have an
        entry for each tensor: one of its shape and dtype, or `None` where the value does not depend
        on it.

    Raises:
        ValueError: If there is not one vector of its shape for each tensor, if the value is not a
            scalar, or with `has_aux=True` if `function` returns no pair.
        TypeError: As for `value_and_grad`.

    Reference:
        Pearlmutter, 1994, "Fast exact multiplication by the Hessian"; Griewank and Walther, 2008,
        "Evaluating Derivatives", 2nd edition, chapter 5.
    """
    value_and_gradients = value_and_grad(function, has_aux)

    def evaluate(tensors: list, vectors: list) -> tuple[Any, list, list]:
        missing: list = []

        def gradients_of(tensors: list) -> tuple[list, Any]:
            value, gradients = value_and_gradients(tensors)
            missing[:] = [g is None for g in gradients]
            pairs = zip(gradients, tensors, strict=True)
            return [densify(g, t) for g, t in pairs], value

        call = _Call("hvp", gradients_of, has_aux=True, is_checked=False)
        tensors = _checked("hvp", tensors)
        vectors = _checked_directions("hvp", "vector", tensors, vectors)
        gradients, aux, products = backend.gradients.jvp(call, tensors, vectors)
        _, value = call.result(gradients, aux)
        return value, *(
            [None if m else t for m, t in zip(missing, ts, strict=True)]
            for ts in (gradients, products)
        )

    return evaluate


def jacobian(function: Callable, has_aux: bool = False) -> Callable:
    r"""Makes a function that returns the Jacobians of `function`, by reverse mode.

    It takes a pass for each entry of the value, many of them at a time. For the gradient of a
    scalar use `value_and_grad`; for a product with a Jacobian `jvp` or `vjp`, which do not make it.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> x = keras.ops.convert_to_tensor([1.0, 2.0])
    >>> (matrix,) = kc.jacobian(lambda tensors: tensors[0] ** 2)([x])
    >>> keras.ops.convert_to_numpy(matrix).tolist()
    [[2.0, 0.0], [0.0, 4.0]]

    Args:
        function: As for `vjp`.
        has_aux: As for `vjp`.

    Returns:
        A function of a list of tensors (or of `keras.Variable`s, which are read). It returns a list
        with a tensor for each, of the shape of the value followed by that of the tensor: zeros
        where the value does not depend on it. With `has_aux=True` it returns `(jacobians, aux)`.

    Raises:
        ValueError: With `has_aux=True`, if `function` returns no pair.
        TypeError: As for `vjp`; also if the tensors are of several dtypes.
    """

    def evaluate(tensors: list) -> Any:
        tensors = _checked("jacobian", tensors)
        dtypes = sorted({keras.backend.standardize_dtype(t.dtype) for t in tensors})
        if len(dtypes) > 1:
            raise TypeError(
                f"`jacobian` takes tensors of one dtype, and was given some of {dtypes}. Convert "
                "them with `keras.ops.cast`."
            )
        call = _Call("jacobian", function, has_aux)
        shape: list = []

        def of_vector(vector: Any) -> tuple[Any, Any]:
            value, aux = call(vectors.unflattened(vector, tensors))
            shape[:] = value.shape
            return ops.reshape(value, (-1,)), aux

        vector = vectors.flattened(tensors, dtypes[0])
        _, aux, rows = backend.gradients.jacobian(of_vector, vector, ROWS)
        _, aux = call.result(None, aux) if has_aux else (None, call.result(None, aux))
        jacobians, end = [], 0
        for tensor in tensors:
            start, end = end, end + math.prod(tensor.shape)
            jacobians.append(ops.reshape(rows[:, start:end], (*shape, *tensor.shape)))
        return (jacobians, aux) if has_aux else jacobians

    return evaluate


def per_sample_gradients(function: Callable, has_aux: bool = False) -> Callable:
    r"""Makes a function that returns the value and the gradients of each sample of a batch.

    For the samples \(s_1, \dots, s_m\) of a batch, the result gives \(L_j = f(t, s_j)\) and
    \(\partial L_j / \partial t_i\) for each \(j\), all samples at once (`vmap`). Private training
    (DP-SGD) clips each of them; their variance is the noise of a gradient.

    A layer takes a batch: give it one of one sample, `model(sample[None])`. Random layers draw the
    same numbers for every sample. A layer that learns from the batch as it is called, as batch
    normalisation does, is an error: no sample has a batch of its own. On TensorFlow samples are
    mapped by XLA, or computed one after another, with a warning, where a layer has a loop, as
    recurrent ones do.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> def loss(tensors, sample):
    ...     x, y = sample
    ...     return (keras.ops.sum(tensors[0] * x) - y) ** 2
    >>> w, x = keras.ops.ones((2,)), keras.ops.convert_to_tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> values, (gradients,) = kc.per_sample_gradients(loss)([w], (x, keras.ops.zeros((2,))))
    >>> keras.ops.convert_to_numpy(gradients).tolist()
    [[2.0, 0.0], [0.0, 8.0]]

    Args:
        function: A function `function(tensors, sample)` that returns a scalar tensor, shape `()`.
            With `has_aux=True` it returns a pair: the scalar and any nest of further tensors.
        has_aux: Whether `function` returns such a pair. Defaults to `False`.

    Returns:
        A function of a list of tensors (or of `keras.Variable`s, which are read) and a batch, any
        nest of tensors with the samples first. It returns `(values, gradients)`, or
        `((values, aux), gradients)` with `has_aux=True`. The values have the shape `(samples,)`,
        the gradients `(samples, ...)` with the shape of the tensor behind, or `None` where the
        value does not depend on it.

    Raises:
        ValueError: If the batch has no tensors or tensors of several numbers of samples, if the
            value is not a scalar, if there is no pair with `has_aux=True`, or if a layer changes
            its state with the sample.
        TypeError: As for `value_and_grad`.

    Reference:
        Abadi and others, 2016, "Deep learning with differential privacy"; Goodfellow, 2015,
        "Efficient per-example gradient computations".
    """

    def evaluate(tensors: list, batch: Any) -> tuple[Any, list]:
        tensors = _checked("per_sample_gradients", tensors)
        flat = keras.tree.flatten(batch)
        leaves = [ops.convert_to_tensor(leaf) for leaf in flat if leaf is not None]
        _check_samples(leaves)
        call = _Call("per_sample_gradients", None, has_aux=True, is_checked=False)
        results: list = []  # what a sample gave, without its tensors

        def of_sample(leaves: list) -> list:
            present = iter(leaves)
            sample = [None if leaf is None else next(present) for leaf in flat]
            sample = keras.tree.pack_sequence_as(batch, sample)
            call.function = lambda tensors: value_and_grad(
                lambda tensors: function(tensors, sample), has_aux
            )(tensors)[::-1]
            gradients, (value, new) = call(tensors)
            _check_seeds_alone(call.assigned)
            gradients = [
                None if g is None else densify(g, t)
                for g, t in zip(gradients, tensors, strict=True)
            ]
            results[:] = [(value, gradients, new)]
            return [x for x in keras.tree.flatten(results[0]) if ops.is_tensor(x)]

        mapped = iter(backend.gradients.over_samples(of_sample, leaves))
        value, gradients, new = keras.tree.map_structure(
            lambda x: next(mapped) if ops.is_tensor(x) else x, results[0]
        )
        # The seeds go on alike in every sample.
        _, value = call.result(None, (value, [values[0] for values in new]))
        return value, gradients

    return evaluate


class _Call:
    """A function of a list of tensors, in a scope of its own, with which it gives what it assigns.

    Args:
        transform: String, the name of the transform.
        function: The function.
        has_aux: Whether it returns a pair.
        is_checked: Whether its value has to be a floating-point tensor.
    """

    def __init__(self, transform, function, has_aux, is_checked=True):
        self.function = function
        self.assigned: list = []
        self._transform, self._has_aux, self._is_checked = transform, has_aux, is_checked

    def __call__(self, tensors):
        """Returns `(value, (aux, new))`, `new` what the variables in `assigned` were assigned."""
        with OverlayScope() as scope, backend.gradients.differentiable_twice():
            result = self.function(tensors)
            value, aux = split_pair(result) if self._has_aux else (result, None)
            if self._is_checked:
                value = checked_floating(
                    value, f"the value of a function under `{self._transform}`"
                )
            self.assigned[:] = [variable for variable, _ in scope.updates]
            return value, (aux, [new for _, new in scope.updates])

    def result(self, value, aux):
        """Assigns the variables; returns what the function returned."""
        aux, new = aux
        for variable, new_value in zip(self.assigned, new, strict=True):
            variable.assign(new_value)
        return (value, aux) if self._has_aux else value


def _checked(transform: str, tensors: Any) -> list:
    return [checked_tensor(t) for t in checked_list(tensors, transform)]


def _checked_directions(transform: str, kind: str, tensors: list, directions: Any) -> list:
    """Returns the tangents, or vectors, as tensors of the dtypes of the tensors."""
    directions = [ops.convert_to_tensor(d) for d in checked_list(directions, transform)]
    shapes, expected = ([tuple(t.shape) for t in ts] for ts in (directions, tensors))
    if shapes != expected:
        raise ValueError(
            f"`{transform}` takes one {kind} for each tensor, of its shape. The tensors have the "
            f"shapes {expected}, the {kind}s {shapes}."
        )
    return [ops.cast(d, t.dtype) for d, t in zip(directions, tensors, strict=True)]


def _check_samples(leaves: list) -> None:
    shapes = [tuple(leaf.shape) for leaf in leaves]
    if not shapes or any(not s for s in shapes) or len({s[0] for s in shapes}) > 1:
        raise ValueError(
            "`per_sample_gradients` takes a batch of tensors that have the samples first, the same "
            f"number of them each. It was given tensors of shapes {shapes}."
        )


def _check_seeds_alone(assigned: list) -> None:
    others = [v.path for v in assigned if not is_seed_state(v)]
    if others:
        raise ValueError(
            f"The function under `per_sample_gradients` changes {others} with each sample, as "
            "batch normalisation and metrics do, and no sample has a batch of its own. Call the "
            "model with `training=False`, take a layer that normalises each sample "
            "(LayerNormalization, GroupNormalization), or update metrics after it."
        )


__all__ = ["hvp", "jacobian", "jvp", "per_sample_gradients", "vjp"]
