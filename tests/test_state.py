"""Random layers, batch normalisation, logs: what a step of several evaluations does to state."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal


class BothMasks(kc.optimizers.MultiGradientOptimizer):
    """Returns the difference of two gradients at the same point: zero iff the masks agree."""

    def estimate_gradient(self, evaluate, point):
        _, first = evaluate(point)
        _, second = evaluate(point)
        return [a - b for a, b in zip(first, second)]


def dropout_model(optimizer, seeds=(7, 11)):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,))
    h = keras.layers.Dense(32)(keras.layers.GaussianDropout(0.5, seed=seeds[0])(inputs))
    h = keras.layers.Dropout(0.5, seed=seeds[1])(h)
    model = kc.Model(inputs, keras.layers.Dense(1)(h))
    model.compile(optimizer, loss="mse")
    return model


def seeds(model):
    return [v.numpy()[1] for v in model.variables if "seed_generator" in v.path]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(24, 6)).astype("float32"), rng.normal(size=(24, 1)).astype("float32")


@pytest.mark.parametrize("of_layers", [(7, 11), (None, None)], ids=["seeded", "unseeded"])
def test_all_evaluations_of_a_step_see_the_same_masks(data, of_layers):
    model = dropout_model(BothMasks(1.0), of_layers)
    before = model.get_weights()
    model.fit(*data, batch_size=8, epochs=2, verbose=0)
    assert_all_equal(before, model.get_weights())


@pytest.mark.parametrize("of_layers", [(7, 11), (None, None)], ids=["seeded", "unseeded"])
def test_the_next_step_sees_other_masks(data, of_layers):
    """The check that the test above can fail: two plain evaluations, a step apart, differ."""
    model = dropout_model(kc.optimizers.Heun(0.0), of_layers)
    losses = [model.train_on_batch(*data, return_dict=True)["loss"] for _ in range(3)]
    assert len(set(np.float32(losses))) == 3


@pytest.mark.parametrize("steps", [1, 3])
def test_seeds_advance_once_a_step(steps, data):
    model = dropout_model(kc.optimizers.Heun(0.01))
    before = seeds(model)
    model.fit(*data, batch_size=24 // steps, verbose=0)
    assert len(before) == 2
    assert [int(b) - int(a) for a, b in zip(before, seeds(model))] == [steps] * 2


def normalised_model(cls):
    keras.utils.set_random_seed(5)
    inputs = keras.Input((6,))
    x = keras.layers.BatchNormalization(momentum=0.7)(keras.layers.Dense(4)(inputs))
    return cls(inputs, keras.layers.Dense(1)(x))


def test_moving_statistics_are_those_of_one_forward_pass(data):
    plain, ours = normalised_model(keras.Model), normalised_model(kc.Model)
    ours.compile(kc.optimizers.Heun(0.1), loss="mse")
    ours.train_on_batch(*data)
    plain(data[0], training=True)
    for name in ("moving_mean", "moving_variance"):
        expected, actual = (getattr(m.layers[2], name).numpy() for m in (plain, ours))
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_logs_are_those_of_the_model_as_it_stood(data):
    model = normalised_model(kc.Model)
    model.compile(kc.optimizers.Heun(0.3), loss="mse", metrics=["mae"])
    before = model.get_weights()
    logs = model.train_on_batch(*data, return_dict=True)
    model.set_weights(before)
    y_pred = ops.convert_to_numpy(model(data[0], training=True))
    np.testing.assert_allclose(logs["loss"], ((y_pred - data[1]) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["mae"], np.abs(y_pred - data[1]).mean(), rtol=1e-5)
    assert logs["gradient_evaluations"] == 2
    assert logs["skipped_steps"] == 0


def test_losses_of_layers_leave_nothing_behind(data):
    """`add_loss` inside an evaluation keeps no tensor of it (on JAX a leaked tracer)."""

    class Penalty(keras.layers.Layer):
        def call(self, x):
            self.add_loss(0.1 * ops.mean(x**2))
            return x

    inputs = keras.Input((6,))
    model = kc.Model(inputs, Penalty()(keras.layers.Dense(1)(inputs)))
    model.compile(kc.optimizers.Heun(0.01), loss="mse")
    model.fit(*data, verbose=0)
    assert [float(loss) for loss in model.losses] == []


class OwnStep(kc.Model):
    """The default step, written as users write it."""

    def multi_gradient_step(self, x, y, sample_weight):
        def loss_function(x, y):
            return self.compute_loss(x, y, self(x, training=True))

        variables = self.trainable_variables
        loss, gradients = self.value_and_grad(loss_function, variables, batch=(x, y))
        self.apply_gradients(gradients, variables)
        return {"loss": loss}


EULER = kc.optimizers.Tableau(a=[[]], b=[1.0], order=1)

WAYS_OF_ONE_GRADIENT = {
    "own step": (OwnStep, lambda inner: inner, {}),
    "micro-batches": (kc.Model, lambda inner: inner, {"microbatch_size": 16}),
    "window, mixin": (kc.Model, lambda inner: kc.optimizers.Accumulate(inner, 1), {}),
    "window": (keras.Model, lambda inner: kc.optimizers.Accumulate(inner, 1), {}),
    "method": (kc.Model, lambda inner: kc.optimizers.RungeKutta(inner, EULER), {}),
}


def spectrally_normalised(model_class):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(stddev=2.0))
    inputs = keras.Input((4,))
    hidden = keras.layers.SpectralNormalization(dense, power_iterations=2)(inputs)
    return model_class(inputs, keras.layers.Dense(1)(hidden))


def clipped_embedding(model_class):
    """Assigns to the table in which it then looks up: the gradient of that is of a few rows."""

    class Clipped(keras.layers.Embedding):
        def call(self, x):
            self._embeddings.assign(keras.ops.clip(self._embeddings, -0.02, 0.02))
            return super().call(x)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    rows = Clipped(7, 2)(keras.ops.cast(inputs > 0, "int32"))
    return model_class(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(rows)))


@pytest.mark.parametrize("way", WAYS_OF_ONE_GRADIENT)
@pytest.mark.parametrize("make", [spectrally_normalised, clipped_embedding])
def test_a_layer_that_assigns_to_what_is_trained_is_as_in_keras_own_step(make, way):
    """On TensorFlow and PyTorch that goes on from what was assigned, with the gradient there; on
    JAX from the weights before, with the gradient through the assignment."""
    model_class, wrap, options = WAYS_OF_ONE_GRADIENT[way]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 4)).astype("float32"), rng.normal(size=(48, 1)).astype("float32")
    model, expected = make(model_class), make(keras.Model)
    model.compile(wrap(keras.optimizers.SGD(0.05, momentum=0.9)), loss="mse", **options)
    expected.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss="mse")
    for m in (model, expected):
        m.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    assert_all_close(model.get_weights(), expected.get_weights(), atol=1e-6)
