"""A net of six inputs, and the product of two of them that it learns."""

import keras
import numpy as np

import keras_cool as kc

X = np.random.default_rng(0).normal(size=(120, 6)).astype("float32")
Y = np.tanh(X[:, :1] * X[:, 1:2]).astype("float32")


def net(model_class=kc.Model, *layers, **options):
    """One hidden layer, with further ones behind it; the same weights each time."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    h = keras.layers.Dense(12, activation="tanh")(inputs)
    for layer in layers:
        h = layer(h)
    return model_class(inputs, keras.layers.Dense(1)(h), **options)


def compiled_net(model_class, optimizer, **options):
    """Under the mean squared error."""
    model = net(model_class)
    model.compile(optimizer, loss="mse", **options)
    return model


def updates(model):
    """How many updates a model's optimizer has made."""
    return int(model.optimizer.iterations.numpy())
