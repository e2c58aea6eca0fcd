"""Which optimizers take part in the training of a model."""

import keras

from keras_cool.keras_private import all_layers


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
