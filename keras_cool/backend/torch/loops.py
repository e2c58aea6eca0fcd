"""PyTorch: Python loops over micro-batches, and loops that run until a condition holds."""

import keras
import torch


def scalar_of_microbatch_if(condition, function, dtype):
    """Returns the scalar `function()` of the dtype if `condition` is true, and 0 otherwise."""
    zero = torch.zeros((), dtype=getattr(torch, dtype), device=condition.device)
    return function() if condition else zero


def while_loop(cond, body, loop_vars):
    """`keras.ops.while_loop`."""
    return keras.ops.while_loop(cond, body, loop_vars)


def over_microbatches(body, initial_state, batch, size):
    """Runs `body` on one micro-batch after another and adds up what it gives.

    Args, returns: As in `keras_cool/backend/jax/loops.py`.
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
