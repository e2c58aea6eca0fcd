"""Float16 with a loss scale, bfloat16, and what a non-finite gradient does."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal
from support.training import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
Y = np.tanh(X[:, :1]).astype("float32")


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


float16 = pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
bfloat16 = pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)


def make(optimizer, cls=kc.Model, loss="mse"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    h = keras.layers.Dense(16, activation="tanh")(inputs)
    model = cls(inputs, keras.layers.Dense(1, dtype="float32")(h))
    model.compile(optimizer, loss=loss)
    return model


@float16
def test_compile_puts_the_loss_scale_around_heun(policy):
    model = make(kc.optimizers.Heun(0.1))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(model.optimizer.inner_optimizer, kc.optimizers.Heun)
    history = fit(model, X, Y, batch_size=32, epochs=40)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert int(model.optimizer.iterations) == 40


@float16
def test_float16_follows_float32(policy):
    mixed = make(kc.optimizers.Heun(0.1))
    fit(mixed, X, Y, batch_size=32, epochs=10)
    keras.config.set_dtype_policy("float32")
    full = make(kc.optimizers.Heun(0.1))
    fit(full, X, Y, batch_size=32, epochs=10)
    assert_all_close(
        mixed.get_weights(), full.get_weights(), atol=5e-3
    )  # float16 has a relative step of 1e-3


@float16
@pytest.mark.parametrize("bad_evaluation", [0, 1])
def test_a_non_finite_evaluation_changes_no_weight_and_lowers_the_scale(policy, bad_evaluation):
    """The first or only the second evaluation overflows: both skip the step."""

    class Overflow(kc.optimizers.MultiGradientOptimizer):
        def estimate_gradient(self, evaluate, point):
            gradients = [evaluate(point)[1], evaluate(point)[1]]
            bad = [ops.full_like(g, np.inf) for g in gradients[bad_evaluation]]
            gradients[bad_evaluation] = bad
            return [(a + b) / 2 for a, b in zip(*gradients)]

    model = make(Overflow("adam"))
    before = model.get_weights()
    model.optimizer.build(model.trainable_variables)
    scale = float(ops.convert_to_numpy(model.optimizer.dynamic_scale))
    history = fit(model, X, Y, batch_size=32)
    assert_all_equal(before, model.get_weights())
    assert float(ops.convert_to_numpy(model.optimizer.dynamic_scale)) == scale / 2
    assert int(model.optimizer.iterations) == 0
    assert history["skipped_steps"] == [1]


@float16
def test_an_overflow_in_the_data_is_survived(policy):
    """Inputs that overflow float16 once: that step is skipped, the next ones train."""
    model = make(kc.optimizers.Heun(0.1))
    before = model.get_weights()
    fit(model, X * 1e30, Y, batch_size=32)
    assert_all_equal(before, model.get_weights())
    history = fit(model, X, Y, batch_size=32, epochs=20)
    assert history["loss"][-1] < history["loss"][0]
    assert history["skipped_steps"][-1] == 1


@float16
def test_every_evaluation_is_unscaled(policy):
    """A trial point at a fixed distance: with a scaled gradient it would be far away."""

    class Recorder(kc.optimizers.MultiGradientOptimizer):
        def build(self, variables):
            super().build(variables)
            self.norm = self.add_variable((), dtype="float32", name="norm")

        def estimate_gradient(self, evaluate, point):
            _, gradients = evaluate(point)
            self.norm.assign(ops.sqrt(sum(ops.sum(g**2) for g in gradients)))
            return gradients

    model = make(Recorder(0.1))
    fit(model, X, Y, batch_size=32)
    seen = float(ops.convert_to_numpy(model.optimizer.inner_optimizer.norm))
    assert 0.01 < seen < 100


@float16
def test_an_own_step_under_the_loss_scale(policy):
    class OwnStep(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            def loss_function():
                return self.compute_loss(x, y, self(x, training=True), sample_weight)

            loss, gradients = self.value_and_grad(loss_function, self.trainable_variables)
            self.apply_gradients(gradients, self.trainable_variables)
            return {"loss": loss}

    ours, theirs = (make(keras.optimizers.SGD(0.1), cls) for cls in (OwnStep, keras.Model))
    a, b = fit(ours, X, Y, batch_size=32, epochs=5), fit(theirs, X, Y, batch_size=32, epochs=5)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)
    assert_all_close(ours.get_weights(), theirs.get_weights(), atol=1e-3)
    for p, q in zip(ours.optimizer.variables[2:4], theirs.optimizer.variables[2:4]):
        np.testing.assert_array_equal(p.numpy(), q.numpy())  # step counter and scale


@float16
def test_an_own_step_that_gives_the_optimizer_a_part_of_the_variables(policy):
    class OnlyLast(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            def loss_function():
                return self.compute_loss(x, y, self(x, training=True), sample_weight)

            variables = self.layers[-1].trainable_variables
            loss, gradients = self.value_and_grad(loss_function, variables)
            self.apply_gradients(gradients, variables)
            return {"loss": loss}

    model = make("adam", OnlyLast)
    first, last = model.layers[1].get_weights(), model.layers[-1].get_weights()
    fit(model, X, Y, batch_size=32)
    np.testing.assert_array_equal(first[0], model.layers[1].get_weights()[0])
    assert np.abs(last[0] - model.layers[-1].get_weights()[0]).max() > 1e-4


@bfloat16
def test_bfloat16_trains(policy):
    model = make(kc.optimizers.Heun(0.1))
    history = fit(model, X, Y, batch_size=32, epochs=40)
    assert history["loss"][-1] < 0.5 * history["loss"][0]


def test_a_static_loss_scale_factor_of_the_inner_optimizer():
    plain = make(kc.optimizers.Heun(keras.optimizers.SGD(0.1)))
    scaled = make(kc.optimizers.Heun(keras.optimizers.SGD(0.1, loss_scale_factor=256.0)))
    fit(plain, X, Y, batch_size=32, epochs=5)
    fit(scaled, X, Y, batch_size=32, epochs=5)
    assert_all_close(plain.get_weights(), scaled.get_weights(), atol=1e-6)


@float16
def test_step_size_control_under_float16(policy):
    """Overflowing data skip a step and lower the scale; the step size and the flow go on."""
    model = make(kc.optimizers.RK23(0.05, rtol=1e-2, atol=1e-3))
    scale = model.optimizer.initial_scale
    before = model.get_weights()
    history = fit(model, X * 1e30, Y, batch_size=32)
    assert_all_equal(before, model.get_weights())
    assert (history["skipped_steps"], history["flow_time"]) == ([1], [0])
    assert float(ops.convert_to_numpy(model.optimizer.dynamic_scale)) == scale / 2
    history = fit(model, X, Y, batch_size=32, epochs=20)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["flow_time"][-1] > 0.5
    assert history["skipped_steps"][-1] - history["too_large_steps"][-1] <= 5


@pytest.mark.parametrize("inner", [0.1, "adam"], ids=["sgd", "adam"])
@pytest.mark.parametrize("arguments", [{}, {"run_eagerly": True}], ids=["compiled", "eager"])
def test_a_non_finite_gradient_never_reaches_the_weights(inner, arguments):
    model = make(kc.optimizers.Heun(inner))
    model.compile(model.optimizer, loss="mse", **arguments)
    bad = Y.copy()
    bad[3] = np.nan
    before = model.get_weights()
    history = fit(model, X, bad, batch_size=32)
    assert_all_equal(before, model.get_weights())
    assert np.isnan(history["loss"][0])  # the loss is logged as it was
    assert history["skipped_steps"] == [1]
    assert int(model.optimizer.iterations) == 0
    history = fit(model, X, Y, batch_size=32, epochs=2)
    assert history["skipped_steps"] == [1, 1]
    assert int(model.optimizer.iterations) == 2
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"], indirect=True)
def test_a_skipped_step_keeps_the_state_of_the_method_too(policy):
    class Counted(kc.optimizers.MultiGradientOptimizer):
        def build(self, variables):
            super().build(variables)
            self.mean = self.add_optimizer_variables(variables, "mean")

        def estimate_gradient(self, evaluate, point):
            _, gradients = evaluate(point)
            for mean, g in zip(self.mean, gradients):
                mean.assign(0.9 * mean + 0.1 * g)
            return self.mean  # variables: their values inside the step are meant

    model = make(Counted(0.1))
    fit(model, X, Y, batch_size=32)
    method = getattr(model.optimizer, "inner_optimizer", None)
    method = method if isinstance(method, Counted) else model.optimizer
    before = [m.numpy() for m in method.mean]
    fit(model, X, np.full_like(Y, np.nan), batch_size=32)
    for a, m in zip(before, method.mean):
        np.testing.assert_array_equal(a, m.numpy())
        assert np.abs(a).max() > 0


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"], indirect=True)
def test_a_skipped_step_keeps_the_moving_statistics(policy):
    inputs = keras.Input((6,))
    h = keras.layers.BatchNormalization()(keras.layers.Dense(4)(inputs))
    model = kc.Model(inputs, keras.layers.Dense(1, dtype="float32")(h))
    model.compile(kc.optimizers.Heun(0.1), loss="mse")
    before = model.get_weights()
    bad = X.copy()
    bad[0, 0] = np.nan
    assert fit(model, bad, Y, batch_size=32)["skipped_steps"] == [1]
    assert_all_equal(before, model.get_weights())
    fit(model, X, Y, batch_size=32)
    assert np.abs(model.layers[2].moving_mean.numpy()).max() > 0


class TwoOptimizers(kc.Model):
    """Each layer has an optimizer of its own, as a GAN's players have."""

    def __init__(self, second):
        super().__init__()
        self.first, self.last = keras.layers.Dense(8), keras.layers.Dense(1, dtype="float32")
        self.first.build((None, 6))
        self.last.build((None, 8))
        self.second = second
        self.second.build(self.first.trainable_variables)

    def call(self, x):
        return self.last(self.first(x))

    def multi_gradient_step(self, x, y, sample_weight):
        def loss_function():
            return self.compute_loss(x, y, self(x, training=True), sample_weight)

        for layer, optimizer in ((self.first, self.second), (self.last, self.optimizer)):
            variables = layer.trainable_variables
            loss, gradients = self.value_and_grad(loss_function, variables, optimizer=optimizer)
            self.apply_gradients(gradients, variables, optimizer=optimizer)
        return {"loss": loss}


@float16
@pytest.mark.parametrize("scaled", [True, False])
def test_a_second_optimizer_never_gets_a_non_finite_gradient(policy, scaled):
    second = keras.optimizers.Adam(0.01)
    model = TwoOptimizers(keras.optimizers.LossScaleOptimizer(second) if scaled else second)
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    history = fit(model, X * 5, Y * 5, batch_size=32, epochs=20)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert history["loss"][-1] < history["loss"][0]
    before = model.first.get_weights()
    fit(model, np.full_like(X, np.inf), Y, batch_size=32)
    assert_all_equal(before, model.first.get_weights())


SOFT_BATCHES = {
    "microbatch_size": (kc.Model, lambda: keras.optimizers.Adam(0.01), {"microbatch_size": 8}),
    "accumulate": (kc.Model, lambda: kc.optimizers.Accumulate(keras.optimizers.Adam(0.01), 4), {}),
    "accumulate-keras.Model": (
        keras.Model,
        lambda: kc.optimizers.Accumulate(keras.optimizers.Adam(0.01), 4),
        {},
    ),
}


@float16
@pytest.mark.parametrize("way", SOFT_BATCHES)
def test_a_soft_batch_in_float16_is_unscaled_and_equals_the_large_one(policy, way):
    """Adam's first steps are sign-like, so that a bound of 1e-3 stands for 8 equal steps."""
    model_class, optimizer, options = SOFT_BATCHES[way]
    expected = make(keras.optimizers.Adam(0.01), keras.Model)
    fit(expected, X, Y, batch_size=32, epochs=8)
    model = make(optimizer(), model_class)
    if options:
        model.microbatch_size = options["microbatch_size"]
    batch_size = 32 if options else 8
    model.fit(X, Y, batch_size=batch_size, epochs=8, shuffle=False, verbose=0)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert int(model.optimizer.iterations.numpy()) == 8
    a, b = (np.concatenate([w.ravel() for w in m.get_weights()]) for m in (model, expected))
    assert np.linalg.norm(a - b) < 1e-3 * np.linalg.norm(b)


@float16
@pytest.mark.parametrize("way", SOFT_BATCHES)
def test_an_overflow_in_a_soft_batch_lowers_the_scale(policy, way):
    model_class, optimizer, options = SOFT_BATCHES[way]
    model = make(optimizer(), model_class)
    if options:
        model.microbatch_size = options["microbatch_size"]
    before = model.get_weights()
    bad = X.copy()
    bad[8:16] = np.inf
    batch_size = 32 if options else 8
    scale = float(model.optimizer.initial_scale)
    model.fit(bad, Y, batch_size=batch_size, shuffle=False, verbose=0)
    assert float(model.optimizer.dynamic_scale.numpy()) == scale / 2
    for a, b in zip(model.get_weights(), before):
        assert np.all(np.isfinite(a))
        if options:
            np.testing.assert_array_equal(a, b)
