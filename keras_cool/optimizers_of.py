"""Which optimizers take part in the training of a model, and which of them accumulate."""

import keras

from keras_cool.keras_private import all_layers, holds_several


def optimizers_of(model):
    """Lists the optimizers of a model, each once: its own first, from `compile`, then all that are
    attributes of it, of its layers or of models inside it, alone or in lists, tuples, dictionaries
    and sets."""
    own = getattr(model, "optimizer", None)
    found = {} if own is None else {id(own): own}
    for layer in [model, *all_layers(model)]:
        for value in vars(layer).values():
            _collect(value, found)
    return list(found.values())


def _collect(value, found):
    if isinstance(value, keras.optimizers.Optimizer):
        found.setdefault(id(value), value)
    elif isinstance(value, dict):
        for entry in value.values():
            _collect(entry, found)
    elif isinstance(value, list | tuple | set):
        for entry in value:
            _collect(entry, found)


def accumulating_optimizers(*optimizers):
    """Lists each `Accumulate` that the optimizers are or hold, once: inside a `LossScaleOptimizer`
    and inside a `MultiOptimizer` too."""
    found = []
    for optimizer in optimizers:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        if holds_several(optimizer):
            found += accumulating_optimizers(*optimizer.optimizers)
        elif hasattr(optimizer, "finish_window"):
            found.append(optimizer)
    return list({id(o): o for o in found}.values())


def may_accumulate(*optimizers):
    """Whether one of the optimizers is or holds an `Accumulate`, or may turn out to: what a
    `MultiOptimizer` holds is known once it was built."""
    inner = [getattr(o, "inner_optimizer", o) for o in optimizers]
    unknown = any(holds_several(o) and not o.built for o in inner)
    return unknown or bool(accumulating_optimizers(*optimizers))
