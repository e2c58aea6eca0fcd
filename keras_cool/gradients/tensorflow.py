"""`value_and_grad` on TensorFlow: a `GradientTape` that watches the tensors and nothing else."""

import tensorflow as tf


def value_and_grad(objective, scope_at, tensors):
    """Gives `(value, aux, gradients)` of `objective(tensors, scope) -> (value, aux)`.

    The scope, from `scope_at(tensors)`, stays open while the gradients are taken: a rematerialised
    layer reads its variables once more then.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        # An alias of its own for each, so that one tensor given twice has two gradients.
        tensors = [tf.identity(tf.convert_to_tensor(t)) for t in tensors]
        tape.watch(tensors)
        with scope_at(tensors) as scope:
            value, aux = objective(tensors, scope)
            with tape.stop_recording():
                return value, aux, tape.gradient(value, tensors)


def densify(gradient, tensor):
    """Gives `gradient` as a tensor: zeros where it is `None`, `IndexedSlices` made dense."""
    return tf.zeros_like(tensor) if gradient is None else tf.convert_to_tensor(gradient)
