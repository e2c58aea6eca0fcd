"""Bad input: errors that name the mend."""

import math

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.comparisons import assert_all_equal

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


def test_heun_on_a_model_without_the_mixin_names_inject():
    def make():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(kc.optimizers.Heun(0.1), loss="mse")
        return model

    with pytest.raises(ValueError, match=r"keras_cool\.inject\(model\)"):
        make().fit(X, Y, verbose=0)
    history = kc.inject(make()).fit(X, Y, verbose=0)  # the mend works
    assert history.history["gradient_evaluations"] == [2]


@pytest.mark.parametrize("name", ["adamm", "", "heun"])
def test_a_string_that_names_no_optimizer_lists_the_names(name):
    with pytest.raises(ValueError, match="The names are: .*adam, .*sgd"):
        kc.optimizers.Heun(name)


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf, -math.inf, -1])
@pytest.mark.parametrize("wrap", [float, lambda rate: keras.optimizers.SGD(float(rate))])
def test_a_learning_rate_that_is_negative_or_not_finite(rate, wrap):
    with pytest.raises(ValueError, match="finite and not negative"):
        kc.optimizers.Heun(wrap(rate))


@pytest.mark.parametrize("thing", [None, True, [0.1], {"learning_rate": 0.1}, keras.layers.Dense])
def test_what_is_no_optimizer_is_an_error_with_examples(thing):
    with pytest.raises(TypeError, match=r"Heun\(0\.1\), Heun\('adam'\)"):
        kc.optimizers.Heun(thing)


@pytest.mark.parametrize("rate", [0, 1, 0.5, np.float32(0.5), np.float64(0.25)])
def test_numbers_are_learning_rates(rate):
    optimizer = kc.optimizers.Heun(rate)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(optimizer.learning_rate), float(rate))


def test_a_loss_scale_inside_is_told_to_go_outside():
    with pytest.raises(ValueError, match=r"Heun\(optimizer\.inner_optimizer\)"):
        kc.optimizers.Heun(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()))


def test_the_mixin_behind_the_model_in_the_bases_is_told_to_go_first():
    with pytest.raises(TypeError, match=r"class Wrong\(keras_cool\.MultiGradientMixin, keras"):

        class Wrong(keras.Model, kc.MultiGradientMixin):
            pass


@pytest.mark.backend("jax")
def test_a_second_optimizer_that_is_not_built_is_named_on_jax():
    class Unbuilt(kc.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.dense.build((None, 3))
            self.second = keras.optimizers.Adam(0.1)

        def call(self, x):
            return self.dense(x)

        def multi_gradient_step(self, x, y, sample_weight):
            variables = self.trainable_variables
            loss, gradients = self.value_and_grad(
                lambda: self.compute_loss(x, y, self(x)), variables
            )
            self.apply_gradients(gradients, variables, optimizer=self.second)
            return {"loss": loss}

    model = Unbuilt()
    model.compile("sgd", loss="mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match="build an optimizer on its variables before `fit`"):
        model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])
    model.second.build(model.trainable_variables)
    model.compile("sgd", loss="mse")
    model.fit(X, Y, verbose=0)


def test_a_multi_gradient_optimizer_inside_another_is_refused():
    with pytest.raises(ValueError, match="takes several gradients a step itself"):
        kc.optimizers.Heun(kc.optimizers.Heun(0.1))


@pytest.mark.parametrize("inject", [kc.inject, lambda m: kc.optimizers.Heun(0.1).inject(m)])
def test_a_model_that_is_not_compiled_is_told_to_compile(inject):
    model = inject(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match=r"call `compile\(\)` before"):
        model.fit(X, Y, verbose=0)


def test_a_multi_gradient_optimizer_in_a_written_out_step_names_the_mend():
    class OwnStep(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            loss, gradients = self.value_and_grad(
                lambda: self.compute_loss(x, y, self(x)), self.trainable_variables
            )
            self.apply_gradients(gradients, self.trainable_variables)
            return {"loss": loss}

    inputs = keras.Input((3,))
    model = OwnStep(inputs, keras.layers.Dense(1)(inputs))
    model.compile(kc.optimizers.Heun(0.1), loss="mse")
    with pytest.raises(ValueError, match="move the loss into `compute_loss`"):
        model.fit(X, Y, verbose=0)


def test_an_error_inside_a_step_loses_no_weight():
    """On JAX Keras takes the values out of the variables for the first step."""

    class Fails(kc.Model):
        fails = True

        def multi_gradient_step(self, x, y, sample_weight):
            if self.fails:
                raise RuntimeError("in the step")
            return super().multi_gradient_step(x, y, sample_weight)

    inputs = keras.Input((3,))
    model = Fails(inputs, keras.layers.Dense(1)(inputs))
    model.compile(kc.optimizers.Heun("adam"), loss="mse")
    before = model.get_weights()
    with pytest.raises(RuntimeError, match="in the step"):
        model.fit(X, Y, verbose=0)
    assert_all_equal(before, model.get_weights())
    model.fails = False
    model.compile(model.optimizer, loss="mse")
    assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"][0])


def test_no_loss_has_keras_own_error_or_zero():
    inputs = keras.Input((3,))
    model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(kc.optimizers.Heun(0.1))
    with pytest.raises(ValueError, match="No loss to compute|No gradients provided"):
        model.fit(X, Y, verbose=0)


if keras.backend.backend() == "torch":
    import torch

    def wrapped_model(optimizer, trainable=True):
        inputs = keras.Input((3,))
        wrapped = keras.layers.TorchModuleWrapper(torch.nn.Linear(3, 1), output_shape=(None, 1))
        wrapped.trainable = trainable
        model = kc.Model(inputs, keras.layers.Dense(1)(wrapped(inputs)))
        model.compile(optimizer, loss="mse")
        return model

    def test_a_wrapped_torch_module_is_refused_by_name():
        with pytest.raises(ValueError, match=r"\['torch_module_wrapper.*Write them with Keras"):
            wrapped_model(kc.optimizers.Heun(0.1)).fit(X, Y, verbose=0)

    def test_a_wrapped_torch_module_trains_with_a_plain_optimizer():
        losses = wrapped_model("sgd").fit(X, Y, epochs=3, verbose=0).history["loss"]
        assert losses[-1] < losses[0]

    def test_a_frozen_torch_module_is_none_of_the_steps_business():
        losses = wrapped_model(kc.optimizers.Heun(0.1), trainable=False)
        history = losses.fit(X, Y, epochs=3, verbose=0).history
        assert history["loss"][-1] < history["loss"][0]


LINE_SEARCHES = {"BFGS", "LBFGS", "SSBroyden"}
WITHOUT_RATE = {"LevenbergMarquardt", *LINE_SEARCHES}
PLAIN = {"LazyAdam", "LazyMomentum"}  # optimizers of Keras' own kind, with its arguments
WRAPPERS = set(kc.optimizers.__all__) - {"Tableau", "schedules"} - WITHOUT_RATE - PLAIN


@pytest.mark.parametrize("name", sorted(WRAPPERS))
def test_keras_own_name_of_the_learning_rate_names_the_line(name):
    method = getattr(kc.optimizers, name)
    with pytest.raises(TypeError, match=rf"{name}\(0\.3.*{name}\(keras\.optimizers\.Adam\(0\.3\)"):
        method(learning_rate=0.3)
    with pytest.raises(TypeError, match=rf"{name}\(keras\.optimizers\.Adam\(0\.3\)"):
        method("adam", learning_rate=0.3)


@pytest.mark.parametrize("name", sorted(WITHOUT_RATE))
def test_a_learning_rate_where_there_is_none(name):
    sets = (
        "a line search finds each" if name in LINE_SEARCHES else "its damping sets the length of a"
    )
    with pytest.raises(TypeError, match=rf"{sets} step.* {name}\(\)"):
        getattr(kc.optimizers, name)(learning_rate=0.3)


@pytest.mark.parametrize("make", [kc.optimizers.Heun, lambda: kc.optimizers.Accumulate(steps=4)])
def test_no_first_argument_names_the_line(make):
    with pytest.raises(TypeError, match=r"(Heun\(0\.1\)|Accumulate\(0\.1, steps=4\)), "):
        make()


@pytest.mark.parametrize(
    "schedule",
    [
        kc.optimizers.schedules.Warmup(0.1, 10),
        kc.optimizers.schedules.Cycle(0.1, 0.2, 10),
        kc.optimizers.schedules.OneCycle(0.1, 10),
    ],
    ids=["warmup", "cycle", "one_cycle"],
)
@pytest.mark.parametrize("cls", [keras.Model, kc.Model])
def test_a_learning_rate_schedule_among_the_callbacks_names_its_place(schedule, cls):
    inputs = keras.Input((3,))
    model = cls(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", loss="mse")
    match = rf"Adam\({type(schedule).__name__}\(\.\.\.\)\)"
    for callbacks in (schedule, [schedule]):
        with pytest.raises(TypeError, match=match):
            model.fit(X, Y, callbacks=callbacks, verbose=0)
        with pytest.raises(TypeError, match=match):
            model.evaluate(X, Y, callbacks=callbacks, verbose=0)


def test_a_step_that_returns_no_logs_is_told_what_to_return():
    class NoLogs(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            return self.compute_loss(x, y, self(x, training=True))

    inputs = keras.Input((3,))
    model = NoLogs(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", loss="mse")
    with pytest.raises(TypeError, match=r"NoLogs has to return the logs.*\{'loss': loss\}"):
        model.fit(X, Y, verbose=0)


def test_a_step_with_keras_signature_is_an_error_where_it_is_defined():
    with pytest.raises(TypeError, match=r"def multi_gradient_step\(self, x, y, sample_weight\)"):

        class Wrong(kc.Model):
            def multi_gradient_step(self, data):
                return {}

    class Fine(kc.Model):
        def multi_gradient_step(self, x, y=None, sample_weight=None, more=0):
            return {}

    class FineToo(kc.Model):
        def multi_gradient_step(self, *batch):
            return {}


def own_train_step(*args):
    return {}


@pytest.mark.parametrize("way", ["compile", "attribute", "callback"])
def test_a_train_step_of_ones_own_does_not_drop_what_it_would_not_use(way):
    cls = type("OwnTrainStep", (kc.Model,), {"train_step": own_train_step})
    inputs = keras.Input((3,))
    model = cls(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", loss="mse")
    report = kc.callbacks.StepMonitor()
    ask = {
        "compile": lambda: model.compile("sgd", loss="mse", microbatch_size=4),
        "attribute": lambda: setattr(model, "microbatch_size", 4),
        "callback": lambda: model.fit(X, Y, verbose=0, callbacks=[report]),
    }[way]
    with pytest.raises(ValueError, match="OwnTrainStep has a `train_step` of its own"):
        ask()
    assert model.microbatch_size is None


def test_a_train_step_that_calls_ours_is_fine():
    class Counting(kc.Model):
        def train_step(self, *args):
            return super().train_step(*args)

    inputs = keras.Input((3,))
    model = Counting(inputs, keras.layers.Dense(1)(inputs))
    model.compile(kc.optimizers.Heun(0.1), loss="mse", microbatch_size=4)
    logs = model.fit(X, Y, batch_size=8, verbose=0).history
    assert logs["gradient_evaluations"] == [2]


@pytest.mark.backend("jax")
def test_a_stateful_rnn_says_that_its_state_would_be_lost():
    inputs = keras.Input(batch_shape=(4, 5, 2))
    model = kc.Model(inputs, keras.layers.LSTM(3, stateful=True)(inputs))
    model.compile(kc.optimizers.Heun(0.1), loss="mse")
    with pytest.raises(ValueError, match="stateful RNN.*Make the layer with stateful=False"):
        model.fit(np.ones((4, 5, 2)), np.ones((4, 3)), batch_size=4, verbose=0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Evaluate", kc.callbacks.PythonMetric),
        ("StepReport", kc.callbacks.StepMonitor),
        ("Cycle", kc.optimizers.schedules.Cycle),
        ("OneCycle", kc.optimizers.schedules.OneCycle),
        ("Warmup", kc.optimizers.schedules.Warmup),
    ],
)
def test_former_names_warn_and_work(old, new):
    with pytest.warns(FutureWarning, match=f"callbacks.{old} is now .*{new.__name__}"):
        assert getattr(kc.callbacks, old) is new


def test_the_former_name_of_an_argument():
    with pytest.warns(FutureWarning, match="`explosion` of Rescue is now `divergence_ratio`"):
        assert kc.callbacks.Rescue(explosion=7.0).divergence_ratio == 7.0
    with pytest.raises(TypeError, match="Rescue has no argument 'explosions'"):
        kc.callbacks.Rescue(explosions=7.0)


def test_a_file_with_a_schedule_under_its_former_place_loads():
    config = keras.saving.serialize_keras_object(kc.optimizers.schedules.Warmup(0.1, 4))
    assert config["registered_name"] == "keras_cool>Warmup"
    config["module"] = "keras_cool.callbacks.warmup"
    loaded = keras.saving.deserialize_keras_object(config)
    assert type(loaded) is kc.optimizers.schedules.Warmup
