"""Injection into models that exist: kinds, states, saving, and going on."""

import copy
import pickle

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.comparisons import assert_all_equal
from support.training import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = X[:, :1] - X[:, 1:2]


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.2, seed=1)(inputs)))


def sequential():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dropout(0.2, seed=1), keras.layers.Dense(1)]
    )


@keras.saving.register_keras_serializable(package="tests_inject")
class Subclassed(keras.Model):
    def __init__(self, units=1, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dropout = keras.layers.Dropout(0.2, seed=1)
        self.dense = keras.layers.Dense(units)

    def call(self, x, training=False):
        return self.dense(self.dropout(x, training=training))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


KINDS = {"functional": functional, "sequential": sequential, "subclassed": Subclassed}


@pytest.fixture(params=KINDS)
def make(request):
    return KINDS[request.param]


def test_returns_the_same_object_and_twice_is_harmless(make):
    model = make()
    assert kc.inject(model) is model
    cls = type(model)
    assert kc.inject(model) is model
    assert type(model) is cls
    assert isinstance(model, kc.MultiGradientMixin)
    assert isinstance(model, keras.Model)


def test_not_compiled_then_compiled(make):
    model = kc.inject(make())
    model.compile(kc.optimizers.Heun(0.1), loss="mse")
    history = fit(model, X, Y, epochs=10)
    assert history["gradient_evaluations"][-1] == 60
    assert history["loss"][-1] < history["loss"][0]


def test_compiled_and_trained_keeps_all_it_has(make):
    keras.utils.set_random_seed(0)
    model = make()
    model.compile(keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"])
    fit(model, X, Y)
    weights, state = model.get_weights(), [v.numpy() for v in model.optimizer.variables]
    kc.inject(model)
    assert_all_equal(weights, model.get_weights())
    for a, b in zip(state, model.optimizer.variables):
        np.testing.assert_array_equal(a, b.numpy())
    assert "mae" in fit(model, X, Y)
    assert int(model.optimizer.iterations) == 6


def test_the_optimizer_injects_itself_as_in_the_essay(make):
    model = make()
    optimizer = kc.optimizers.Heun(0.1)
    model.compile("adam", loss="mse", metrics=["mae"])
    fit(model, X, Y)
    assert optimizer.inject(model) is model
    assert model.optimizer is optimizer
    history = fit(model, X, Y)
    assert history["gradient_evaluations"] == [6]
    assert "mae" in history


def test_compiled_with_heun_before_injection(make):
    model = make()
    model.compile(kc.optimizers.Heun(0.1), loss="mse")
    assert fit(kc.inject(model), X, Y)["gradient_evaluations"] == [6]


def test_injection_after_training_drops_the_old_training_function(make):
    model = make()
    model.compile("sgd", loss="mse")
    fit(model, X, Y)
    kc.optimizers.Heun(0.1).inject(model)
    assert fit(model, X, Y)["gradient_evaluations"] == [6]


@pytest.mark.parametrize("inner", [0.1, "adam"], ids=["sgd", "adam"])
def test_saves_as_the_class_it_was_and_goes_on_to_the_bit(make, inner, tmp_path):
    model = make()
    model.compile("sgd", loss="mse")
    fit(model, X, Y)
    kc.optimizers.Heun(inner).inject(model)
    fit(model, X, Y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is model.__class__
    assert not isinstance(loaded, kc.MultiGradientMixin)
    assert isinstance(loaded.optimizer, kc.optimizers.Heun)
    kc.inject(loaded)
    assert fit(loaded, X, Y, epochs=2) == fit(model, X, Y, epochs=2)
    assert_all_equal(model.get_weights(), loaded.get_weights())


def test_mixed_float16_keeps_its_loss_scale():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = sequential()
        model.compile("sgd", loss="mse")
        kc.optimizers.Heun(0.1).inject(model)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert fit(model, X, Y)["gradient_evaluations"] == [6]
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_are_injected_too(make, duplicate):
    model = make()
    model.compile("sgd", loss="mse")
    fit(model, X, Y)
    kc.optimizers.Heun(0.1).inject(model)
    fit(model, X, Y)
    other = duplicate(model)
    assert isinstance(other, kc.MultiGradientMixin)
    assert other.__class__ is model.__class__
    assert fit(other, X, Y) == fit(model, X, Y)


def test_other_models_of_the_class_are_not_touched():
    injected, other = kc.inject(sequential()), sequential()
    assert type(other) is keras.Sequential
    assert type(kc.inject(other)) is type(injected)


def test_a_model_with_a_train_step_of_its_own_is_told_where_to_put_it():
    class OwnTrainStep(keras.Sequential):
        def train_step(self, *args):
            return super().train_step(*args)

    model = kc.inject(OwnTrainStep([keras.layers.Dense(1)]))
    model.compile("sgd", loss="mse")
    fit(model, X, Y)  # a plain optimizer uses it
    kc.optimizers.Heun(0.1).inject(model)
    with pytest.raises(ValueError, match="Move what it does into `compute_loss`"):
        fit(model, X, Y)


@pytest.mark.parametrize("thing", [None, keras.layers.Dense(1), "model"])
def test_what_is_not_a_model_is_an_error(thing):
    with pytest.raises(TypeError, match="takes a Keras model"):
        kc.inject(thing)


def test_an_optimizer_injected_before_compile_is_the_one_that_it_takes():
    model = sequential()
    optimizer = kc.optimizers.Heun(0.1)
    optimizer.inject(model)
    model.compile(loss="mse")
    assert model.optimizer is optimizer
    assert model.fit(X, Y, batch_size=24, verbose=0).history["gradient_evaluations"] == [2]
    model.compile(loss="mse")  # Keras' default, as ever
    assert isinstance(model.optimizer, keras.optimizers.RMSprop)


@pytest.mark.parametrize("named", ["position", "keyword"])
def test_an_optimizer_that_compile_names_goes_before_the_injected_one(named):
    model = sequential()
    kc.optimizers.Heun(0.1).inject(model)
    model.compile("sgd", loss="mse") if named == "position" else model.compile(
        optimizer="sgd", loss="mse"
    )
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    fit(model, X, Y)
