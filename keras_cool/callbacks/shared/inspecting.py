"""`inspecting`: calls a model between two training steps, without an effect on its training."""

import contextlib

import keras
import numpy as np

from keras_cool import backend
from keras_cool.training.step_state import variables_of


@contextlib.contextmanager
def inspecting(model):
    """A context in which `model.predict` and `model.evaluate` may be called between two steps.

    What they change is put back, after an error too: the running means of loss and metrics, and on
    PyTorch the training mode and the random numbers. No two variables share a buffer inside, which
    on JAX would be lost to one of them. Guarded by
    `test_looking_at_the_model_leaves_training_as_it_was`.

    Args:
        model: The Keras model, with its state on it (`callback.model`).
    """
    backend.snapshots.separate(variables_of(model))
    metrics = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in model.metrics_variables]
    try:
        with backend.snapshots.keeping_mode(model):
            yield
    finally:
        for variable, value in metrics:
            variable.assign(value)
