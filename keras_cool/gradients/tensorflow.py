"""`value_and_grad` on TensorFlow: a `GradientTape` that watches the tensors and nothing else."""

from contextlib import ExitStack

import tensorflow as tf


def value_and_grad(objective, tensors):
    """Gives `(value, aux, gradients)` of `objective(tensors, scopes) -> (value, aux)`.

    The scopes stay open while the gradients are taken: a rematerialised layer reads its variables
    once more then.
    """
    tensors = [tf.convert_to_tensor(t) for t in tensors]
    with ExitStack() as scopes:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            # An alias of its own for each, so that one tensor given twice has two gradients.
            tensors = [tf.identity(t) for t in tensors]
            tape.watch(tensors)
            value, aux = objective(tensors, scopes)
        return value, aux, tape.gradient(value, tensors)


def densify(gradient, tensor):
    """Gives `gradient` as a tensor: zeros where it is `None`, `IndexedSlices` made dense."""
    return tf.zeros_like(tensor) if gradient is None else tf.convert_to_tensor(gradient)
