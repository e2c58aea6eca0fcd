"""PyTorch: Python loops over micro-batches, loops that run until a condition holds, and sums over
batches."""

import contextlib
from numbers import Number

import keras
import numpy as np
import torch


def scalar_of_microbatch_if(condition, function, dtype):
    """Returns the scalar `function()` of the dtype if `condition` is true, and 0 otherwise."""
    zero = torch.zeros((), dtype=getattr(torch, dtype), device=condition.device)
    return function() if condition else zero


def while_loop(cond, body, loop_vars):
    """`keras.ops.while_loop`; numbers of Python and arrays of NumPy stay such."""
    if any(isinstance(v, Number | np.ndarray) for v in loop_vars):
        return _steered_by_numbers(cond, body, loop_vars)
    return _loop(cond, body, [keras.ops.convert_to_tensor(v) for v in loop_vars])


def _loop(cond, body, loop_vars):
    while cond(*loop_vars):
        loop_vars = body(*loop_vars)
    return loop_vars


# `torch.compile` would compile it anew for every number.
_steered_by_numbers = torch.compiler.disable(_loop)


def after(tensors):
    """Returns the context of what is computed once the tensors are: any."""
    return contextlib.nullcontext()


def over_microbatches(body, initial_state, batch, size):
    """Runs `body` on one micro-batch after another and adds up what it gives.

    Args, returns: As in `keras_cool/backend/jax/loops.py`.
    """
    samples = batch[0].shape[0]
    sums, state, pieces, of_rows = None, None, [], []
    for i, start in enumerate(range(0, samples, size)):
        microbatch = [x[start : start + size] for x in batch]
        share = microbatch[0].shape[0] / samples
        more, state, outputs, rows, last = body(state if i else initial_state(), microbatch, share)
        sums = _add(sums, more, in_place=i > 1) if i else more
        pieces.append(outputs)
        of_rows.append(rows)
        del more
    return sums, state, _joined(pieces), _joined(of_rows), last


def _joined(pieces):
    return [torch.cat(parts) for parts in zip(*pieces, strict=True)]


def _add(sums, more, in_place):
    # Gradients as autograd gives them may share memory; only sums of them are ours to write to.
    for i in range(len(sums)):
        sums[i] = sums[i].add_(more[i]) if in_place else sums[i] + more[i]
        more[i] = None  # not a gradient longer in memory than need be
    return sums


class SumsOverBatches:
    """Adds up what a function gives for each batch of a pass over the data, outside of a step.

    Args: As in `keras_cool/backend/jax/loops.py`.
    """

    def __init__(self, function, model):
        self._function, self._model = function, model

    def __call__(self, batches):
        """The sums over an iterable of batches as `fit` has them; `None` if there are none."""
        sums = None
        self._model.train()  # as `fit` does, for layers that ask for the mode
        with torch.no_grad():
            for batch in batches:
                inputs, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
                more = self._function(inputs)
                sums = more if sums is None else [a + b for a, b in zip(sums, more, strict=True)]
        return sums
