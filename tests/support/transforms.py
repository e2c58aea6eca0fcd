"""Functions to transform: the losses of small models, and what finite differences say of them."""

import keras
import numpy as np
from keras import layers, ops

LAYERS = {
    "dense": lambda x: layers.Activation("tanh")(layers.Dense(3)(x)),
    "convolution": lambda x: layers.Activation("gelu")(layers.Conv1D(3, 2)(x)),
    "normalisation": lambda x: layers.LayerNormalization()(layers.Dense(3)(x)),
    "attention": lambda x: layers.MultiHeadAttention(2, 3)(x, x),
    "lstm": lambda x: layers.Flatten()(layers.LSTM(3)(x)),
    "embedding": lambda x: layers.Embedding(5, 3)(ops.cast(ops.abs(x) * 2, "int32")),
}

# JAX computes the softmax of attention in float32.
IN_FLOAT64 = [k for k in LAYERS if k != "attention" or keras.backend.backend() != "jax"]


class Case:
    """A model with one kind of layer, and its outputs as a function of its weights.

    Attributes:
        tensors: List of tensors, the weights.
        directions: List of tensors like them, drawn at random.
    """

    def __init__(self, kind):
        rng = np.random.default_rng(0)
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4, 3))
        hidden = layers.Flatten()(LAYERS[kind](inputs))
        self.model = keras.Model(inputs, layers.Dense(2)(hidden))
        self._variables = self.model.trainable_variables
        self.x = ops.convert_to_tensor(rng.uniform(-2, 2, size=(5, 4, 3)), keras.config.floatx())
        self.tensors, self.directions = (
            [
                ops.convert_to_tensor(0.5 * rng.normal(size=v.shape), v.dtype)
                for v in self._variables
            ]
            for _ in range(2)
        )

    def outputs(self, tensors, x=None):
        """The outputs at weights."""
        with keras.StatelessScope(zip(self._variables, tensors, strict=True)):
            return self.model(self.x if x is None else x, training=True)

    def loss(self, tensors, x=None):
        """A loss of the outputs, a scalar."""
        return ops.mean(ops.sin(self.outputs(tensors, x)))

    def at(self, distance):
        """The weights, moved along the directions."""
        return [t + distance * d for t, d in zip(self.tensors, self.directions, strict=True)]


def slope(function, distance=1e-5):
    """The derivative of `function(distance)` at 0, an array, by finite differences of order 4."""
    points = [np.float64(ops.convert_to_numpy(function(k * distance))) for k in (-2, -1, 1, 2)]
    return (points[0] - 8 * points[1] + 8 * points[2] - points[3]) / (12 * distance)


def flat(tensors):
    """All entries of tensors as one array; those that are missing are left out."""
    present = [ops.convert_to_numpy(t).ravel() for t in tensors if t is not None]
    return np.concatenate(present)
