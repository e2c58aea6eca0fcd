"""`Schedule`: numbers that change while training, against Keras and NumPy, on every backend."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.training import fit
from support.ways_to_train import BACKEND, MODELS, WAYS

Schedule = kc.callbacks.Schedule
X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def linear(cls=keras.Model, optimizer=None, loss="mse", **arguments):
    """One layer without a bias, three steps an epoch of four samples."""
    inputs = keras.Input((3,))
    model = cls(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs))
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss=loss, **arguments)
    return model


def train_with(model, callbacks, epochs=4):
    return fit(model, X, Y, batch_size=4, epochs=epochs, callbacks=callbacks)


def descent(numbers, penalty=True):
    """Gradient descent in NumPy with one number a step: the penalty's weight, or the momentum."""
    w, velocity = np.zeros((3, 1)), 0.0
    for i, number in enumerate(numbers):
        x, y = X[4 * (i % 3) :][:4], Y[4 * (i % 3) :][:4]
        gradient = 2 * x.T @ (x @ w - y) / 4
        if penalty:
            gradient = gradient + 2 * number * x.T @ (x @ w) / 4
        velocity = (0.0 if penalty else number * velocity) - 0.1 * gradient
        w = w + velocity
    return w


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", MODELS)
def test_a_variable_of_the_loss_by_epoch(cls, way):
    """The essay's own use: a number of the loss that falls from 0.1 to 0.01 at a later epoch."""
    lamb = keras.Variable(0.1, trainable=False, name="lamb")

    def loss(y, prediction):
        return ops.square(prediction - y) + lamb * ops.square(prediction)

    model = linear(MODELS[cls], loss=loss, **WAYS[way])
    logs = train_with(model, [Schedule(lamb, lambda epoch: 0.1 if epoch < 2 else 0.01)])
    np.testing.assert_allclose(logs["lamb"], [0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    expected = descent([0.1] * 6 + [0.01] * 6)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", MODELS)
def test_an_attribute_of_the_loss_by_step(cls, way):
    class Penalised(keras.losses.Loss):
        weight = None

        def __init__(self):
            super().__init__()
            self.weight = 0.5

        def call(self, y, prediction):
            return ops.square(prediction - y) + self.weight * ops.square(prediction)

    loss = Penalised()
    model = linear(MODELS[cls], loss=loss, **WAYS[way])
    logs = train_with(
        model, [Schedule((loss, "weight"), lambda step: 0.1 + 0.01 * step, by="step")]
    )
    numbers = 0.1 + 0.01 * np.arange(12)
    np.testing.assert_allclose(logs["weight"], numbers[2::3], rtol=1e-6)
    np.testing.assert_allclose(model.get_weights()[0], descent(numbers), rtol=1e-5)
    assert loss.weight == pytest.approx(numbers[-1])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", MODELS)
def test_the_momentum_by_step_from_a_table(cls, way):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model = linear(MODELS[cls], optimizer, **WAYS[way])
    schedule = Schedule((model.optimizer, "momentum"), {2: 0.5, 7: 0.0, 9: 0.8}, by="step")
    logs = train_with(model, [schedule])
    np.testing.assert_allclose(logs["momentum"], [0.5, 0.5, 0.0, 0.8], rtol=1e-6)
    expected = descent([0.9] * 2 + [0.5] * 5 + [0.0] * 2 + [0.8] * 3, penalty=False)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)
    assert type(optimizer.momentum) is float  # a number again, which is what is saved
    keras.optimizers.serialize(optimizer)


def test_a_learning_rate_by_step_as_the_schedule_itself():
    cosine = keras.optimizers.schedules.CosineDecay(0.1, 12)
    expected = linear(optimizer=keras.optimizers.SGD(cosine))
    train_with(expected, [])
    model = linear()
    logs = train_with(model, [Schedule((model.optimizer, "learning_rate"), cosine, by="step")])
    np.testing.assert_allclose(model.get_weights()[0], expected.get_weights()[0], rtol=1e-5)
    assert logs["learning_rate"][-1] == pytest.approx(float(cosine(11)))


def test_a_dropout_rate():
    """At a rate of 0 all outputs pass; at 0.75 a quarter of them does, four times as large."""
    layer = keras.layers.Dropout(0.5, seed=0)
    inputs = keras.Input((1000,))
    model = keras.Model(inputs, layer(inputs))

    class Passed(keras.metrics.Mean):
        def update_state(self, y, prediction, sample_weight=None):
            super().update_state(ops.mean(ops.cast(prediction > 0, "float32")))

    model.compile("sgd", loss="mse", metrics=[Passed(name="passed")])
    ones = np.ones((8, 1000), "float32")
    schedule = Schedule((layer, "rate"), {0: 0.0, 1: 0.75, 2: 0.25})
    logs = model.fit(ones, ones, epochs=3, callbacks=[schedule], verbose=0).history
    np.testing.assert_allclose(logs["passed"], [1, 0.25, 0.75], atol=0.03)
    np.testing.assert_allclose(logs["loss"], [0, 3, 1 / 3], rtol=0.1)
    assert layer.rate == 0.25


def test_a_loss_weight_of_compile():
    inputs = keras.Input((3,))
    weight = keras.Variable(1.0, trainable=False, name="weight")
    outputs = [keras.layers.Dense(1, use_bias=False)(inputs) for _ in range(2)]
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), loss=["mse", "mse"], loss_weights=[1.0, weight])
    logs = model.fit(
        X, [Y, Y], epochs=2, verbose=0, callbacks=[Schedule(weight, {0: 1.0, 1: 10.0})]
    ).history
    first, second = model.evaluate(X, [Y, Y], verbose=0)[1:]
    np.testing.assert_allclose(logs["loss"], [first + second, first + 10 * second], rtol=1e-5)


def test_validation_sees_the_number_of_the_epoch():
    regulariser = keras.regularizers.L2(0.5)
    inputs = keras.Input((3,))
    layer = keras.layers.Dense(
        1, use_bias=False, kernel_initializer="ones", kernel_regularizer=regulariser
    )
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.0), loss=lambda y, p: 0 * p)
    regulariser.l2 = 0.5  # a number of Python's, where Keras has made it one of NumPy's
    schedule = Schedule((regulariser, "l2"), {0: 1.0, 1: 2.0})
    logs = model.fit(X, Y, epochs=2, verbose=0, validation_data=(X, Y), callbacks=[schedule])
    np.testing.assert_allclose(logs.history["loss"], [3, 6], rtol=1e-6)
    np.testing.assert_allclose(logs.history["val_loss"], [3, 6], rtol=1e-6)


class Scaled(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.scale = 1.0

    def call(self, x):
        return self.scale * x


def test_prediction_and_evaluation_see_the_number_in_training_and_after():
    """What they compile holds the number of an attribute as a constant, or that of a variable."""
    layer, inputs = Scaled(), keras.Input((3,))
    factor = keras.Variable(1.0, trainable=False, name="factor")
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.0), loss=lambda y, p: factor * ops.abs(p))
    ones, seen = np.ones((4, 3), "float32"), []

    def look(model):
        loss = model.evaluate(ones, ones, verbose=0)
        seen.append([loss, model.predict(ones, verbose=0)[0, 0]])

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            look(self.model)

    look(model)
    for first in (2.0, 4.0):
        callbacks = [
            Schedule((layer, "scale"), {0: first, 1: first + 1}),
            Schedule(factor, {0: first, 1: first + 1}),
        ]
        train_with(model, [*callbacks, Look()], epochs=2)
        look(model)
    expected = [[n**2, n] for n in (1, 2, 3, 3, 4, 5, 5)]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_evaluation_alone_leaves_nothing_behind():
    model = linear()
    schedule = Schedule((model.optimizer, "learning_rate"), {0: 0.5})
    model.evaluate(X, Y, verbose=0, callbacks=[schedule])
    model.predict(X, verbose=0, callbacks=[schedule])
    assert not model.step_hooks.callbacks


def test_a_last_window_is_finished_with_the_number_of_the_step():
    """Windows of 2 batches and of 1 in each epoch: an update outside of the compiled step."""
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    model = linear(kc.Model, kc.optimizers.Accumulate(inner, 2))
    train_with(model, [Schedule((inner, "momentum"), lambda t: 0.9 - 0.2 * t, by="step")], epochs=2)
    w, velocity = np.zeros((3, 1)), 0.0
    for i in range(4):
        x, y = (X[:8], Y[:8]) if i % 2 == 0 else (X[8:], Y[8:])
        velocity = (0.9 - 0.2 * i) * velocity - 0.1 * 2 * x.T @ (x @ w - y) / len(x)
        w = w + velocity
    np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-4)


def test_a_momentum_that_a_schedule_has_taken_to_zero():
    model = linear(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    train_with(model, [Schedule((model.optimizer, "momentum"), {0: 0.0})], epochs=1)
    logs = train_with(model, [Schedule((model.optimizer, "momentum"), {0: 0.5})], epochs=1)
    assert logs["momentum"] == [0.5]


def test_a_train_step_of_its_own_is_refused_before_training():
    class Own(keras.Model):
        def train_step(self, *args):
            return super().train_step(*args)

    model = linear(Own)
    with pytest.raises(ValueError, match="has a `train_step` of its own"):
        train_with(model, [Schedule((model.optimizer, "learning_rate"), {0: 0.5})])
    assert "loss" in train_with(model, [], epochs=1)


def optimizers():
    return {
        "heun": kc.optimizers.Heun(keras.optimizers.SGD(0.1, momentum=0.9)),
        "accumulate": kc.optimizers.Accumulate(keras.optimizers.SGD(0.1, momentum=0.9), 3),
    }


@pytest.mark.parametrize("name", optimizers())
def test_the_number_of_an_inner_optimizer(name):
    """By step it counts updates, as `iterations` does; the wrapper is looked through."""
    optimizer = optimizers()[name]
    model = linear(kc.Model, optimizer)
    logs = train_with(model, [Schedule((optimizer, "momentum"), lambda t: 0.05 * t, by="step")])
    updates = int(optimizer.iterations)
    assert updates == (12 if name == "heun" else 4)
    assert logs["momentum"][-1] == pytest.approx(0.05 * (updates - 1), rel=1e-5)


@pytest.mark.backend("jax", "tensorflow")
@pytest.mark.parametrize("by", ["epoch", "step"])
def test_one_compilation(by):
    compilations = []
    lamb = keras.Variable(0.1, trainable=False)

    def loss(y, prediction):
        compilations.append(None)
        return ops.square(prediction - y) * lamb

    model = linear(loss=loss)
    train_with(model, [], epochs=1)  # which builds the loss
    compilations.clear()
    schedule = Schedule(lamb, lambda count: 0.1 + 0.01 * count, by=by)
    train_with(model, [schedule], epochs=5)
    assert len(compilations) == 1
    train_with(model, [schedule], epochs=5)
    assert len(compilations) == 1  # the same callback, the same program


def test_resumed_training_goes_on_where_it_was(tmp_path):
    def train(epochs, callbacks=()):
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model = linear(optimizer=optimizer)
        target = (optimizer, "momentum")
        schedule = Schedule(target, lambda step: 0.9 - 0.05 * step, by="step")
        logs = train_with(model, [*callbacks, schedule], epochs)
        return model.get_weights()[0], logs["momentum"]

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    expected, numbers = train(4)
    with pytest.raises(KeyboardInterrupt):
        train(4, [keras.callbacks.BackupAndRestore(tmp_path), Stop()])
    resumed, resumed_numbers = train(4, [keras.callbacks.BackupAndRestore(tmp_path)])
    np.testing.assert_allclose(resumed, expected, rtol=1e-6)
    np.testing.assert_allclose(resumed_numbers, numbers[1:], rtol=1e-6)


def test_an_interrupted_fit_leaves_nothing_behind():
    model = linear(kc.Model)

    def interrupt(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_with(model, [Schedule((model.optimizer, "learning_rate"), interrupt)])
    logs = train_with(model, [])
    assert "learning_rate" not in logs and not model.step_hooks.callbacks


def test_a_model_that_is_not_built_yet():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss="mse", metrics=["mae"])
    logs = train_with(model, [Schedule((model.optimizer, "momentum"), {0: 0.5})])
    assert logs["loss"][-1] < logs["loss"][0] and logs["momentum"] == [0.5] * 4


@pytest.mark.parametrize(
    ("target", "schedule", "by", "error", "message"),
    [
        ("momentum", {0: 1.0}, "epoch", TypeError, "or a pair of an object and the name of its"),
        (keras.optimizers.SGD(), {0: 1.0}, "epoch", TypeError, "scalar keras.Variable, or a pair"),
        ((keras.optimizers.SGD(), "speed"), {0: 1.0}, "epoch", ValueError, "'speed' of SGD does"),
        ((keras.optimizers.SGD(), "weight_decay"), {0: 1}, "epoch", ValueError, "SGD is None. Its"),
        ((keras.optimizers.SGD(), "momentum"), {0: 0.9}, "epoch", ValueError, r"SGD\(momentum=0.9"),
        ((keras.layers.Dropout(0), "rate"), {0: 0.5}, "epoch", ValueError, r"begin with 0: Dropou"),
        ((keras.optimizers.Adam(), "beta_1"), 0.9, "epoch", TypeError, "a dictionary of breakp"),
        ((keras.optimizers.Adam(), "beta_1"), {}, "epoch", ValueError, "keys, integers from 0 on"),
        ((keras.optimizers.Adam(), "beta_1"), {-1: 0.9}, "epoch", ValueError, "was given {-1: 0.9"),
        ((keras.optimizers.Adam(), "beta_1"), {0: "x"}, "epoch", TypeError, "holds numbers"),
        ((keras.optimizers.Adam(), "beta_1"), {0: 0.9}, "batch", ValueError, '"epoch" or "step"'),
    ],
)
def test_errors_of_the_arguments(target, schedule, by, error, message):
    with pytest.raises(error, match=message):
        Schedule(target, schedule, by)


def test_errors_of_variables_and_learning_rates():
    with pytest.raises(ValueError, match=r"has shape \(2,\). Give a scalar"):
        Schedule(keras.Variable([1.0, 2.0], trainable=False), {0: 1.0})
    with pytest.raises(ValueError, match=r"keras.Variable\(..., trainable=False\)"):
        Schedule(keras.Variable(1.0), {0: 1.0})
    cosine = keras.optimizers.schedules.CosineDecay(0.1, 12)
    with pytest.raises(ValueError, match=r"schedule of its own.*Warmup\(schedule"):
        Schedule((keras.optimizers.Adam(cosine), "learning_rate"), {0: 1.0})
    with pytest.raises(ValueError, match="RK45 controls its step size itself"):
        Schedule((kc.optimizers.RK45(0.1), "learning_rate"), {0: 1.0})


def raising(epoch):
    raise RuntimeError("no such epoch")


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (lambda epoch: "high", TypeError, "has to give a number. It gave 'high' of type str for e"),
        (lambda epoch: None, TypeError, "It gave None of type NoneType for epoch 0"),
        (lambda epoch: float("nan"), ValueError, "gave nan for epoch 0. It has to be finite"),
        (raising, RuntimeError, "no such epoch"),
    ],
)
def test_a_schedule_that_gives_no_number(schedule, error, message):
    model = linear()
    with pytest.raises(error, match=message) as caught:
        train_with(model, [Schedule((model.optimizer, "learning_rate"), schedule)])
    if error is RuntimeError:
        assert caught.value.__notes__ == [
            "Raised by the schedule of Schedule(learning_rate) for epoch 0."
        ]


def test_a_number_that_the_step_never_reads():
    unused = keras.Variable(0.1, trainable=False, name="unused")
    with pytest.raises(ValueError, match=r"Schedule\(unused\) changes a number that the training"):
        train_with(linear(), [Schedule(unused, {0: 1.0})])


@pytest.mark.backend("jax", "tensorflow")
def test_an_attribute_that_the_step_never_reads():
    loss = keras.losses.Huber(delta=1.0)
    loss.unused = 3.0
    with pytest.raises(ValueError, match="the training step never reads"):
        train_with(linear(loss=loss), [Schedule((loss, "unused"), {0: 1.0})])


@pytest.mark.backend("jax", "tensorflow")
def test_an_attribute_that_python_reads_while_it_is_compiled():
    layer = keras.layers.GaussianDropout(0.5)  # computes with `math`
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", loss="mse", run_eagerly=False)
    with pytest.raises((TypeError, AttributeError), match="GaussianDropout|Sequential") as caught:
        train_with(model, [Schedule((layer, "rate"), {0: 0.1})])
    assert "'rate' of GaussianDropout is scheduled" in caught.value.__notes__[0]
    assert layer.rate == 0.1


def test_an_attribute_that_is_compared_with_another_number():
    class Clipped(keras.losses.Loss):
        bound = 3.0

        def call(self, y, prediction):
            return ops.abs(prediction - y) if self.bound > 2.5 else prediction

    loss = Clipped()
    loss.bound = 3.0
    model = linear(loss=loss)
    if BACKEND == "torch":  # where it is a number in every step
        assert train_with(model, [Schedule((loss, "bound"), {0: 3.0, 2: 2.0})])["bound"] == [
            3,
            3,
            2,
            2,
        ]
        return
    with pytest.raises(TypeError, match=r"'bound' of Clipped is compared with 2.5 in Python"):
        train_with(model, [Schedule((loss, "bound"), {0: 3.0})])


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    layer = keras.layers.Dropout(0.5, seed=0)
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), loss="mse")
    callbacks = [
        Schedule((layer, "rate"), {0: 0.0, 2: 0.25}),
        Schedule((model.optimizer, "momentum"), lambda t: 0.5 + 0.01 * t, by="step"),
    ]
    logs = train_with(model, callbacks)
    assert np.isfinite(logs["loss"]).all() and logs["rate"] == [0, 0, 0.25, 0.25]
    assert model.layers[0].compute_dtype == "float16"


WHOLE = {
    "table-epoch": ("epoch", {0: 1, 2: 3}),
    "table-step": ("step", {0: 1, 6: 3}),
    "function-epoch": ("epoch", lambda epoch: 1 if epoch < 2 else 3),
    "function-step": ("step", lambda step: ops.cast(ops.where(step < 6, 1, 3), "int32")),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_an_integer_variable_takes_whole_numbers(kind):
    by, schedule = WHOLE[kind]
    number = keras.Variable(0, dtype="int32", trainable=False, name="number")

    def loss(y, prediction):
        return ops.square(prediction - y) + ops.cast(number, "float32") * ops.square(prediction)

    model = linear(loss=loss)
    assert train_with(model, [Schedule(number, schedule, by=by)])["number"] == [1, 1, 3, 3]
    np.testing.assert_allclose(model.get_weights()[0], descent([1] * 6 + [3] * 6), rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "by"),
    [
        ({0: 0.5}, "epoch"),
        ({0: 0.5}, "step"),
        (lambda epoch: 0.5, "epoch"),
        (lambda step: step / 2, "step"),
    ],
)
def test_an_integer_variable_takes_no_fraction(schedule, by):
    number = keras.Variable(1, dtype="int32", trainable=False, name="number")
    model = linear(loss=lambda y, p: (p - y) ** 2 * ops.cast(number, "float32"))
    with pytest.raises(TypeError, match="int32 and would cut it off"):
        train_with(model, [Schedule(number, schedule, by=by)])


@pytest.mark.parametrize("cls", MODELS)
def test_two_schedules_of_one_number(cls):
    model = linear(MODELS[cls], keras.optimizers.SGD(0.1, momentum=0.5))
    momentum, rate = (model.optimizer, "momentum"), (model.optimizer, "learning_rate")
    first, second = Schedule(momentum, {0: 0.5}), Schedule(momentum, {1: 0.9}, name="second")
    with pytest.raises(ValueError, match="another Schedule changes already"):
        train_with(model, [first, second])
    with pytest.raises(ValueError, match="another Schedule changes already"):
        train_with(model, [Schedule(rate, {0: 0.1}), Schedule(rate, {0: 0.2}, name="again")])
    # The error leaves nothing behind: each of them works alone, and both on two numbers.
    assert train_with(model, [second], epochs=2)["second"] == pytest.approx([0.5, 0.9])
    logs = train_with(model, [first, Schedule(rate, {0: 0.1})], epochs=2)
    assert logs["momentum"] == pytest.approx([0.5, 0.5])


@pytest.mark.multi_optimizer
def test_the_rates_of_a_multi_optimizer():
    first, second = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.1)
    chosen = keras.optimizers.OptimizerMap(first, {".*bias": second})
    model = linear(kc.Model, keras.optimizers.MultiOptimizer(chosen))
    with pytest.raises(ValueError, match="a learning rate for each of its optimizers"):
        Schedule((model.optimizer, "learning_rate"), {0: 0.1})
    one, other = (first, "learning_rate"), (second, "learning_rate")
    with pytest.raises(ValueError, match="would overwrite 'learning_rate'"):
        train_with(model, [Schedule(one, {0: 0.1}), Schedule(other, {0: 0.2})])
    logs = train_with(model, [Schedule(one, {0: 0.1}), Schedule(other, {0: 0.2}, name="second")])
    assert (logs["learning_rate"][-1], logs["second"][-1]) == pytest.approx((0.1, 0.2))


def test_a_name_that_the_logs_have_already():
    number = keras.Variable(1.0, trainable=False, name="loss")
    model = linear(loss=lambda y, p: (p - y) ** 2 * number, metrics=["mae"])
    for name in (None, "mae"):
        with pytest.raises(ValueError, match="would overwrite .* Give it another name"):
            train_with(model, [Schedule(number, {0: 1.0}, name=name)])
    value = kc.callbacks.PythonMetric(lambda model: 0.0, "value")
    with pytest.raises(ValueError, match="would overwrite 'value'"):
        train_with(model, [value, Schedule(number, {0: 1.0}, name="value")])
    # A learning rate is one, whoever has put it into the logs.
    rate = Schedule((model.optimizer, "learning_rate"), {0: 0.1})
    logs = train_with(model, [kc.callbacks.StepMonitor(1), rate])
    assert logs["learning_rate"] == pytest.approx([0.1] * 4)


class Second(kc.Model):
    """A step that takes an optimizer of its own, and never the one of `compile`."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.penalty = keras.Variable(0.1, trainable=False, name="penalty")
        self.second = keras.optimizers.SGD(0.1, momentum=0.9)

    def multi_gradient_step(self, x, y, sample_weight):
        def loss_function():
            prediction = self(x, training=True)
            return ops.mean((prediction - y) ** 2) + self.penalty * ops.mean(prediction**2)

        loss, gradients = self.value_and_grad(loss_function, self.trainable_variables)
        self.apply_gradients(gradients, self.trainable_variables, optimizer=self.second)
        return {"loss": loss}


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_number_of_a_second_optimizer_goes_by_its_updates():
    model = linear(Second)
    model.penalty.assign(0.0)
    schedule = Schedule((model.second, "momentum"), lambda t: 0.05 * t, by="step")
    with pytest.raises(ValueError, match=r"build it before `fit`: optimizer.build"):
        train_with(
            model, [schedule]
        )  # with the momentum of its first step, 0, it would have no state
    model.second.build(model.trainable_variables)
    train_with(model, [schedule])
    expected = descent(0.05 * np.arange(12), penalty=False)
    np.testing.assert_allclose(model.trainable_variables[0].numpy(), expected, rtol=1e-5)


def test_an_optimizer_that_counts_and_takes_no_step():
    model = linear(Second)
    model.second.build(model.trainable_variables)
    schedule = Schedule(model.penalty, {0: 0.5, 3: 0.1}, by="step")
    with pytest.warns(UserWarning, match="counts the updates of SGD, which made none in epoch 0"):
        assert train_with(model, [schedule])["penalty"] == pytest.approx([0.5] * 4)
    model.compile(optimizer=None)
    with pytest.raises(ValueError, match="compiled without one"):
        train_with(model, [schedule])


@pytest.mark.parametrize("first", [True, False], ids=["schedule-first", "schedule-last"])
def test_another_callback_that_changes_the_number_is_noticed(first):
    model = linear()
    callbacks = [
        Schedule((model.optimizer, "learning_rate"), lambda epoch: 0.1),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.01),
    ]
    with pytest.warns(UserWarning, match="another callback changes the same number"):
        train_with(model, callbacks if first else callbacks[::-1], epochs=2)


def test_an_argument_of_one_of_keras_own_losses():
    """Huber, as Keras computes it with the same numbers set from the start, epoch by epoch."""
    model, expected = linear(loss=keras.losses.Huber(0.5)), linear()
    train_with(model, [Schedule((model.loss, "delta"), {0: 0.1, 2: 3.0})])
    for delta in (0.1, 3.0):
        expected.compile(keras.optimizers.SGD(0.1), loss=keras.losses.Huber(delta))
        train_with(expected, [], epochs=2)
    np.testing.assert_allclose(model.get_weights()[0], expected.get_weights()[0], rtol=1e-5)
    assert float(model.loss([[10.0]], [[0.0]])) == pytest.approx(3.0 * (10.0 - 1.5))


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_bfloat16", "float64"])
def test_numbers_of_layers_under_other_policies(policy):
    """A dropout that lets all pass, and the momentum of a batch normalisation, not rounded."""
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((3,))
    dropout = keras.layers.Dropout(0.5, seed=0)
    normalisation = keras.layers.BatchNormalization(momentum=0.5)
    model = keras.Model(inputs, normalisation(dropout(inputs)))
    model.compile(keras.optimizers.SGD(0.0), loss="mse")
    schedules = [
        Schedule((dropout, "rate"), {0: 0.0}),
        Schedule((normalisation, "momentum"), {0: 0.99}),
    ]
    ones = np.ones((4, 3), "float32")
    model.fit(ones, ones, epochs=1, callbacks=schedules, verbose=0)
    mean = keras.ops.convert_to_numpy(normalisation.moving_mean).astype("float64")
    tolerance = 1e-4 if policy in ("mixed_bfloat16", "float64") else 0.5
    np.testing.assert_allclose(mean, 0.01, rtol=tolerance)


@pytest.mark.parametrize("by", ["epoch", "step"])
def test_a_number_that_keras_would_refuse(by):
    inputs = keras.Input((3,))
    layer = keras.layers.Dropout(0.5, seed=0)
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    model.compile("sgd", loss="mse")
    rate = (lambda epoch: 1.5) if by == "epoch" else lambda step: 1.5 + 0 * step
    # By step PyTorch's own dropout refuses it before the epoch is over.
    with pytest.raises((ValueError, RuntimeError), match="between 0 and 1|p_in"):
        train_with(model, [Schedule((layer, "rate"), rate, by=by)])
    assert layer.rate == 0.5


def test_what_has_no_such_number_says_what_to_do():
    with pytest.raises(TypeError, match="of type float, which has no attributes"):
        Schedule((3.5, "real"), {0: 1.0})
    accumulate = kc.optimizers.Accumulate("sgd", 3)
    with pytest.raises(ValueError, match="is 3, of Accumulate. Change it with .*Accumulation"):
        Schedule((accumulate, "steps"), {0: 2})
