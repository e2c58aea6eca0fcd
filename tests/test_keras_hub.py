"""Injection into models of keras-hub; it needs keras-hub, so `nox -s keras_hub` runs it."""

import importlib.util

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.comparisons import assert_all_equal
from support.training import fit

if importlib.util.find_spec("keras_hub") is None:
    pytest.skip("keras-hub is not installed; `nox -s keras_hub` has it", allow_module_level=True)

import keras_hub

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 40, size=(16, 6))
X = {
    "token_ids": TOKENS,
    "segment_ids": np.zeros_like(TOKENS),
    "padding_mask": np.ones_like(TOKENS),
}
Y = (TOKENS[:, 0] > 20).astype("int32")


def backbone(dropout=0.1):
    return keras_hub.models.BertBackbone(
        vocabulary_size=40,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=6,
        dropout=dropout,
    )


def classifier():
    keras.utils.set_random_seed(0)
    model = keras_hub.models.BertTextClassifier(
        backbone(), num_classes=2, preprocessor=None, dropout=0.1
    )
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_a_classifier_takes_heun_steps_and_learns():
    model = classifier()
    optimizer = kc.optimizers.Heun(keras.optimizers.Adam(0.01))
    assert optimizer.inject(model) is model
    history = fit(model, X, Y, epochs=20)
    assert history["gradient_evaluations"][-1] == 80
    assert history["loss"][-1] < 0.7 * history["loss"][0]


def test_a_classifier_saves_as_the_class_it_was(tmp_path):
    """keras-hub's tasks have a `compile` of their own, so Keras loads them without their optimizer
    and says to compile again."""
    model = kc.optimizers.Heun(0.1).inject(classifier())
    fit(model, X, Y)
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="`compile\\(\\)` method is custom"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras_hub.models.BertTextClassifier
    assert_all_equal(model.get_weights(), loaded.get_weights())
    loaded.compile("sgd", loss=model.loss)
    kc.optimizers.Heun(0.1).inject(loaded)
    assert fit(loaded, X, Y)["gradient_evaluations"] == [4]


def test_a_model_around_a_backbone_goes_on_to_the_bit(tmp_path):
    keras.utils.set_random_seed(0)
    body = backbone(dropout=0.0)  # unseeded dropout on PyTorch draws from no seed of the model
    head = keras.layers.Dense(2)(body(body.input)["pooled_output"])
    model = keras.Model(body.input, head)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss=loss)
    kc.optimizers.Heun("adam").inject(model)
    fit(model, X, Y)
    model.save(tmp_path / "model.keras")
    loaded = kc.inject(keras.saving.load_model(tmp_path / "model.keras"))
    assert fit(loaded, X, Y, epochs=2)["loss"] == fit(model, X, Y, epochs=2)["loss"]
    assert_all_equal(model.get_weights(), loaded.get_weights())


def test_a_backbone_under_a_head_of_ones_own():
    body = backbone()
    head = keras.layers.Dense(2)(body(body.input)["pooled_output"])
    model = kc.inject(keras.Model(body.input, head))
    model.compile(
        kc.optimizers.Heun("adam"),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.learning_rate = 0.01
    history = fit(model, X, Y, epochs=15)
    assert history["loss"][-1] < 0.7 * history["loss"][0]
