"""Save, load, go on: the same weights to the bit, without `custom_objects`."""

import json
import math

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.comparisons import assert_all_equal, assert_same_state
from support.training import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = X[:, :1] - X[:, 1:2]


def functional(cls=kc.Model):
    inputs = keras.Input((4,))
    h = keras.layers.Dropout(0.3, seed=1)(keras.layers.Dense(8, activation="tanh")(inputs))
    return cls(inputs, keras.layers.Dense(1)(keras.layers.BatchNormalization()(h)))


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(kc.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = keras.layers.Dropout(0.3, seed=1)
        self.dense = keras.layers.Dense(1)

    def call(self, x, training=False):
        return self.dense(self.dropout(x, training=training))


@keras.saving.register_keras_serializable(package="tests")
class MixedIn(kc.MultiGradientMixin, keras.Sequential):
    pass


@keras.saving.register_keras_serializable(package="tests")
class CallsFunctional(kc.Model):
    """`super().__init__(inputs, outputs)`, which makes a functional model of a subclass."""

    def __init__(self, units=1, name=None):
        inputs = keras.Input((4,))
        super().__init__(inputs, keras.layers.Dense(units)(inputs), name=name)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}


def mixed_in():
    return MixedIn([keras.Input((4,)), keras.layers.Dropout(0.3, seed=1), keras.layers.Dense(1)])


MODELS = {
    "functional": functional,
    "subclassed": Subclassed,
    "sequential": mixed_in,
    "calls-functional": CallsFunctional,
}
OPTIMIZERS = {
    "heun": lambda: kc.optimizers.Heun(0.05),
    "heun-adam": lambda: kc.optimizers.Heun("adam"),
    "heun-schedule": lambda: kc.optimizers.Heun(
        keras.optimizers.schedules.CosineDecay(0.1, decay_steps=20)
    ),
    "heun-momentum": lambda: kc.optimizers.Heun(keras.optimizers.SGD(0.05, momentum=0.9)),
    "rk45": lambda: kc.optimizers.RK45(rtol=1e-2, controller="PI"),
    "rk23-adam": lambda: kc.optimizers.RK23("adam", rtol=1e-2, atol=1e-3, first_step=0.01),
    "rk23-full-batch": lambda: kc.optimizers.RK23(0.01, full_batch=True),
    "rk23-flow-time": lambda: kc.optimizers.RK23(0.01, full_batch=True, flow_time=0.05),
    "tsit5-schedule": lambda: kc.optimizers.Tsit5(
        keras.optimizers.schedules.CosineDecay(0.1, decay_steps=20), adaptive=False
    ),
    "tableau": lambda: kc.optimizers.RungeKutta(
        0.05, kc.optimizers.Tableau(a=[[], [1 / 3], [0, 2 / 3]], b=[1 / 4, 0, 3 / 4], order=3)
    ),
    "chebyshev": lambda: kc.optimizers.RungeKuttaChebyshev("rmsprop", stages=3),
}


@pytest.mark.parametrize(
    ("make", "optimizer"),
    [(m, "heun") for m in MODELS] + [("functional", o) for o in OPTIMIZERS if o != "heun"],
)
def test_training_goes_on_to_the_bit(make, optimizer, tmp_path):
    keras.utils.set_random_seed(0)
    model = MODELS[make]()
    model.compile(OPTIMIZERS[optimizer](), loss="mse", metrics=["mae"])
    fit(model, X, Y, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert_same_state(loaded, model)
    assert fit(loaded, X, Y, epochs=2) == fit(model, X, Y, epochs=2)
    assert_same_state(loaded, model)


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_seeds_under_a_plain_optimizer(microbatch_size, tmp_path):
    """The mixin saves them with the model; the files fit a plain Keras model, and the other way."""

    def build():
        keras.utils.set_random_seed(0)
        model = functional()
        model.compile("adam", loss="mse", microbatch_size=microbatch_size)
        return model

    model, other = build(), build()
    fit(model, X, Y, epochs=2)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit(other, X, Y)
    other.load_weights(tmp_path / "model.weights.h5")
    assert fit(loaded, X, Y, epochs=2) == fit(other, X, Y, epochs=2) == fit(model, X, Y, epochs=2)
    assert_same_state(loaded, model)

    plain = functional(keras.Model)
    plain.compile("adam", loss="mse")
    plain.load_weights(tmp_path / "model.weights.h5")
    plain.save_weights(tmp_path / "plain.weights.h5")
    other.load_weights(tmp_path / "plain.weights.h5")
    kc.inject(plain).save(tmp_path / "plain.keras")
    keras.saving.load_model(tmp_path / "plain.keras")  # as the class it was


def test_weights_files_hold_the_state_and_the_seeds(tmp_path):
    keras.utils.set_random_seed(0)
    model, other = functional(), functional()
    for m in (model, other):
        m.compile(kc.optimizers.Heun("adam"), loss="mse")
        fit(m, X, Y, epochs=2)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert fit(other, X, Y, epochs=2) == fit(model, X, Y, epochs=2)
    assert_same_state(other, model)


def test_interrupted_and_resumed_by_backup_and_restore(tmp_path):
    def build():
        keras.utils.set_random_seed(0)
        model = functional()
        model.compile(kc.optimizers.Heun("adam"), loss="mse")
        return model

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    whole = build()
    fit(whole, X, Y, epochs=4)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(build(), X, Y, epochs=4, callbacks=[backup, Interrupt()])
    resumed = build()
    fit(resumed, X, Y, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    assert_same_state(resumed, whole)


def test_seeds_of_another_model_are_refused_with_a_warning(tmp_path):
    model = functional()
    model.compile(kc.optimizers.Heun(0.05), loss="mse")
    store = {}
    model.optimizer.build(model.trainable_variables)
    model.optimizer.save_own_variables(store)
    store["seed_1"] = store["seed_0"]
    with pytest.warns(UserWarning, match="holds 2 random seeds and the model has 1"):
        model.optimizer.load_own_variables(store)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_config_round_trip(optimizer):
    original = OPTIMIZERS[optimizer]()
    config = keras.optimizers.serialize(original)
    copy = keras.optimizers.deserialize(config)
    assert type(copy) is type(original)
    assert type(copy.inner_optimizer) is type(original.inner_optimizer)
    assert copy.inner_optimizer.get_config() == original.inner_optimizer.get_config()
    assert copy.name == original.name
    assert copy.get_config() == original.get_config()


def test_a_functional_subclass_leaves_the_base_class_alone():
    """Keras makes a class functional by changing its bases; `kc.Model` must not be changed."""
    CallsFunctional()
    assert not issubclass(kc.Model, type(functional()))
    model = Subclassed()
    model.compile(kc.optimizers.Heun(0.05), loss="mse")
    assert fit(model, X, Y, epochs=2)["gradient_evaluations"] == [6, 12]


def test_the_functional_mixin_works_as_keras_does():
    class Functional(kc.MultiGradientMixin, keras.Model):
        pass

    inputs = keras.Input((4,))
    model = Functional(inputs, keras.layers.Dense(1)(inputs))
    model.compile(kc.optimizers.Heun(0.05), loss="mse")
    assert fit(model, X, Y, epochs=2)["gradient_evaluations"] == [6, 12]
    assert isinstance(model, kc.MultiGradientMixin)


class OwnCompile(keras.Sequential):
    def compile(self, optimizer, gamma=1.0):
        super().compile(optimizer, loss="mse")


@keras.saving.register_keras_serializable(package="tests")
class OverOwnCompile(kc.MultiGradientMixin, OwnCompile):
    pass


def test_a_class_with_a_compile_of_its_own_loads_with_keras_advice(tmp_path):
    model = OverOwnCompile([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(kc.optimizers.Heun(0.05), gamma=2.0)
    fit(model, X, Y, epochs=2)
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="`compile\\(\\)` method is custom"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_all_equal(model.get_weights(), loaded.get_weights())


@pytest.mark.parametrize("max_step", [None, math.inf, 0.5])
def test_the_config_of_a_solver_is_valid_json(max_step):
    """A file of before holds `Infinity`, which Python reads as the number it is."""
    optimizer = kc.optimizers.RK45(0.1, max_step=max_step)
    config = json.dumps(keras.saving.serialize_keras_object(optimizer), allow_nan=False)
    assert f'"max_step": {"0.5" if max_step == 0.5 else "null"}' in config
    for text in (config, config.replace('"max_step": null', '"max_step": Infinity')):
        loaded = keras.saving.deserialize_keras_object(json.loads(text))
        assert loaded.get_config() == optimizer.get_config()
