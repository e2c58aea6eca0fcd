"""Small models of three inputs that several test files train."""

import keras


def linear_model(optimizer, kind=keras.Model, bias=False, start="zeros", **arguments):
    """One layer of one output under the mean squared error."""
    inputs = keras.Input((3,))
    layer = keras.layers.Dense(1, use_bias=bias, kernel_initializer=start)
    model = kind(inputs, layer(inputs))
    model.compile(optimizer, loss="mse", **arguments)
    return model


def deep_model(kind, optimizer, **arguments):
    """With everything that has a state: batch statistics, seeds of its own and none, moments."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    x = keras.layers.BatchNormalization()(inputs)
    x = keras.layers.Dropout(0.2, seed=5)(keras.layers.Dropout(0.2)(x))
    model = kind(inputs, keras.layers.Dense(1)(x))
    model.compile(optimizer, loss="mse", metrics=["mae"], **arguments)
    keras.random.uniform((1,))  # from Keras' generator for what has no seed
    return model


def optimizer_for(way):
    """One with moments; the one with fewer operations where each is run by itself."""
    return (
        keras.optimizers.SGD(0.01, momentum=0.9) if way == "eager" else keras.optimizers.Adam(0.01)
    )


def rate_of(model):
    """The learning rate of a model's optimizer, as a number."""
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
