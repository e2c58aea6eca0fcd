"""`undisturbed`: a look at a model in the midst of its training, which goes on as without it."""

import contextlib

import keras
import numpy as np

from keras_cool import backend


@contextlib.contextmanager
def undisturbed(model):
    """A context in which `model.predict` and `model.evaluate` may be called between two steps.

    What they change is put back: the running means of loss and metrics, and on PyTorch the training
    mode and the random numbers. Guarded by `test_looking_at_the_model_leaves_training_as_it_was`.

    Args:
        model: The Keras model, with its state on it (`callback.model`).
    """
    metrics = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in model.metrics_variables]
    with backend.keeping_mode(model):
        yield
    for variable, value in metrics:
        variable.assign(value)
