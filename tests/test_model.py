"""`Model` with a plain optimizer against `keras.Model`: the same weights and logs."""

import keras
import numpy as np
import pytest

import keras_cool as kc

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(1e-2),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=1e-2),
}


class OwnStep(kc.Model):
    """Overrides the step, so that keras_cool computes it and Keras' `train_step` is not used."""

    def multi_gradient_step(self, x, y, sample_weight):
        return super().multi_gradient_step(x, y, sample_weight)


class WrittenOutStep(kc.Model):
    """The step of `keras.Model` as a user would write it."""

    def multi_gradient_step(self, x, y, sample_weight):
        def loss_function():
            y_pred = self(x, training=True)
            return self.compute_loss(x, y, y_pred, sample_weight), y_pred

        variables = self.trainable_variables
        (loss, y_pred), gradients = self.value_and_grad(loss_function, variables, has_aux=True)
        self.apply_gradients(gradients, variables)
        metrics = self.compute_metrics(x, y, y_pred, sample_weight)
        return {**metrics, "loss": loss}


def model_and_logs(cls, optimizer, **compile_arguments):
    """Three epochs with dropout, batch normalisation, a regulariser, two outputs and weights."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 6)).astype("float32")
    a = rng.normal(size=(60, 2)).astype("float32")
    b = rng.integers(0, 3, size=(60,))
    weights = rng.uniform(0.5, 2, size=(2, 60)).astype("float32")

    inputs = keras.Input((6,))
    h = keras.layers.Dense(16, activation="tanh", kernel_regularizer=keras.regularizers.L2(1e-2))(
        inputs
    )
    h = keras.layers.Dropout(0.3, seed=4)(keras.layers.BatchNormalization()(h))
    outputs = {
        "a": keras.layers.Dense(2, name="a")(h),
        "b": keras.layers.Dense(3, name="b", activation="softmax")(h),
    }
    model = cls(inputs, outputs)
    model.compile(
        optimizer,
        loss={"a": "mse", "b": "sparse_categorical_crossentropy"},
        loss_weights={"a": 0.5, "b": 1.5},
        metrics={"a": ["mae"], "b": ["accuracy"]},
        **compile_arguments,
    )
    history = model.fit(
        x,
        {"a": a, "b": b},
        sample_weight={"a": weights[0], "b": weights[1]},
        batch_size=16,
        epochs=3,
        shuffle=False,
        verbose=0,
    )
    return model, history.history


def assert_same_weights_and_state(ours, keras_model):
    assert len(ours.weights) == len(keras_model.weights)
    for a, b in zip(ours.weights, keras_model.weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, rtol=0, err_msg=a.path)
    for a, b in zip(ours.optimizer.variables, keras_model.optimizer.variables):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, rtol=1e-6, err_msg=a.path)


@pytest.mark.parametrize("cls", [kc.Model, OwnStep])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_same_weights_and_logs(cls, optimizer):
    expected, expected_logs = model_and_logs(keras.Model, OPTIMIZERS[optimizer]())
    actual, logs = model_and_logs(cls, OPTIMIZERS[optimizer]())
    assert_same_weights_and_state(actual, expected)
    assert set(logs) == set(expected_logs)
    for name in logs:
        np.testing.assert_allclose(logs[name], expected_logs[name], rtol=1e-5, err_msg=name)


def test_the_mixin_hands_plain_steps_to_keras_to_the_bit():
    expected, _ = model_and_logs(keras.Model, keras.optimizers.Adam(1e-2))
    actual, _ = model_and_logs(kc.Model, keras.optimizers.Adam(1e-2))
    for a, b in zip(actual.weights, expected.weights):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_written_out_step_is_the_step_of_keras():
    expected, _ = model_and_logs(keras.Model, keras.optimizers.Adam(1e-2))
    actual, _ = model_and_logs(WrittenOutStep, keras.optimizers.Adam(1e-2))
    assert_same_weights_and_state(actual, expected)


@pytest.mark.parametrize("arguments", [{"run_eagerly": True}, {"jit_compile": False}])
def test_same_weights_uncompiled(arguments):
    expected, _ = model_and_logs(keras.Model, keras.optimizers.Adam(1e-2), **arguments)
    actual, _ = model_and_logs(OwnStep, keras.optimizers.Adam(1e-2), **arguments)
    assert_same_weights_and_state(actual, expected)


def test_accumulation_ema_and_clipping_of_the_plain_optimizer_stay():
    def optimizer():
        return keras.optimizers.SGD(
            0.05,
            momentum=0.9,
            clipnorm=0.5,
            use_ema=True,
            ema_overwrite_frequency=2,
            gradient_accumulation_steps=2,
        )

    expected, _ = model_and_logs(keras.Model, optimizer())
    actual, _ = model_and_logs(OwnStep, optimizer())
    assert_same_weights_and_state(actual, expected)
