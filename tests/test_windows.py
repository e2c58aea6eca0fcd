"""What a window of `Accumulate` holds: batches that reach some of the variables, in several calls.

The references are NumPy in float64 and plain Keras.
"""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(3)
X = RNG.normal(size=(96, 4)).astype("float32")
Y = np.tanh(X.sum(1, keepdims=True))

MODELS = {"mixin": kc.Model, "keras": keras.Model}


@pytest.fixture(params=MODELS)
def model_class(request):
    return MODELS[request.param]


class Heads:
    """Two heads on one trunk; a batch reaches the one that it names. All linear."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.parts = {}
        for name, shape in {"trunk": (4, 3), "one": (3, 1), "two": (3, 1)}.items():
            value = keras.initializers.Constant(rng.normal(size=shape))
            part = keras.layers.Dense(shape[1], use_bias=False, kernel_initializer=value)
            part.build((None, shape[0]))
            setattr(self, name, part)
        self.built = True

    def call(self, x):
        (name,) = x
        return (self.one if name == "one" else self.two)(self.trunk(x[name]))


def heads(model_class, optimizer, **options):
    model = type("M", (Heads, model_class), {})()
    model.compile(optimizer, loss="mse", **options)
    return model


def batches(names, size=8):
    for k, name in enumerate(names):
        part = slice(size * k, size * (k + 1))
        yield {name: X[part]}, Y[part]


def gradients(weights, x, y):
    """In NumPy: those of the three kernels, zeros for the head that the batch does not name."""
    ((name, x),) = x.items()
    trunk, x = weights[0], x.astype("float64")
    place = 1 if name == "one" else 2
    residual = 2 * (x @ trunk @ weights[place] - y) / len(x)
    found = [x.T @ (residual @ weights[place].T), *(0 * w for w in weights[1:])]
    found[place] = (x @ trunk).T @ residual
    return found


def float64(weights):
    return [w.astype("float64") for w in weights]


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=["compiled", "eager"])
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_heads_in_turn(model_class, options):
    """Each batch has a compiled step of its own. A head that a window reaches once gets half."""
    model = heads(model_class, kc.optimizers.Accumulate(0.1, 2), **options)
    weights = float64(model.get_weights())
    names = ["one", "two", "one", "one", "two", "two", "two", "one"]
    sums = None
    for k, (x, y) in enumerate(batches(names)):
        model.train_on_batch(x, y)
        found = gradients(weights, x, y)
        sums = found if k % 2 == 0 else [a + b for a, b in zip(sums, found)]
        if k % 2:
            weights = [w - 0.05 * s for w, s in zip(weights, sums)]
    assert_all_close(model.get_weights(), weights, atol=1e-6)


def of_trunk_and_heads():
    adam = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
    momentum = keras.optimizers.SGD(0.05, momentum=0.9)
    return keras.optimizers.MultiOptimizer(lambda v: momentum if v.shape == (4, 3) else adam)


OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "weight decay": lambda: keras.optimizers.SGD(0.05, weight_decay=0.3),
    "EMA": lambda: keras.optimizers.Adam(0.05, use_ema=True, ema_overwrite_frequency=5),
    "amsgrad": lambda: keras.optimizers.Adam(0.05, amsgrad=True),
    "Lookahead": lambda: kc.optimizers.Lookahead(keras.optimizers.Adam(0.05), steps=3),
    "Muon": lambda: keras.optimizers.Muon(0.05),
    "two": pytest.param(of_trunk_and_heads, marks=pytest.mark.multi_optimizer),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("non_finite", ["skip_update", "skip_batch"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_window_of_one_is_the_optimizer_itself(model_class, optimizer, non_finite):
    """Also for a head without a gradient: on TensorFlow and PyTorch Keras leaves it as it is."""
    accumulating = kc.optimizers.Accumulate(optimizer(), 1, non_finite=non_finite)
    model, expected = heads(model_class, accumulating), heads(keras.Model, optimizer())
    for x, y in batches(["one", "two", "two", "one", "two", "one", "one"]):
        model.train_on_batch(x, y)
        expected.train_on_batch(x, y)
    assert_all_close(model.get_weights(), expected.get_weights(), atol=1e-6)
    for a, b in zip(accumulating.inner_optimizer.variables, expected.optimizer.variables):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6, err_msg=a.path)


@pytest.mark.backend("tensorflow", "torch")
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("name", ["Adam", "momentum", "EMA", "Lookahead"])
def test_a_head_that_no_batch_of_a_window_reaches_stays(model_class, name):
    """As in plain Keras with one batch of both, in which nothing reaches it either."""
    make = OPTIMIZERS[name]
    model, expected = heads(model_class, kc.optimizers.Accumulate(make(), 2)), None
    expected = heads(keras.Model, make())
    names = ["one", "one", "two", "two", "two", "two", "one", "one"]
    whole = list(batches(names[::2], size=16))
    for k, (x, y) in enumerate(batches(names)):
        model.train_on_batch(x, y)
        if k % 2:
            expected.train_on_batch(*whole[k // 2])
    assert_all_close(model.get_weights(), expected.get_weights(), atol=1e-6)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_window_goes_on_after_it_was_saved_and_loaded(model_class, tmp_path):
    """Between two batches and between two windows, with heads that come in turn."""
    names = ["one", "two", "one", "two", "two", "one", "one"]
    for stop in (1, 2, 3):
        whole = heads(model_class, kc.optimizers.Accumulate("adam", 2))
        parts = heads(model_class, kc.optimizers.Accumulate("adam", 2))
        other = heads(model_class, kc.optimizers.Accumulate("adam", 2))
        for k, (x, y) in enumerate(batches(names)):
            whole.train_on_batch(x, y)
            if k == stop:
                other.optimizer.build(other.trainable_variables)
                store: dict = {}
                parts.optimizer.save_own_variables(store)
                other.optimizer.load_own_variables(store)
                other.set_weights(parts.get_weights())
                parts = other
            parts.train_on_batch(x, y)
        assert_all_equal(whole.get_weights(), parts.get_weights())


def test_a_layer_unfrozen_in_a_carried_window(model_class):
    """It has what the batches since then gave it, and nothing of an older window."""
    if BACKEND == "jax" and model_class is keras.Model:
        pytest.skip("Keras' own step on JAX needs a new optimizer for other variables")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    first = keras.layers.Dense(3, activation="tanh")
    model = model_class(inputs, keras.layers.Dense(1)(first(inputs)))
    optimizer = kc.optimizers.Accumulate(keras.optimizers.SGD(0.1), 4, last_window="carry")

    def fit(part):
        model.compile(optimizer, loss="mse")
        model.fit(X[part], Y[part], batch_size=8, shuffle=False, verbose=0)

    fit(slice(0, 32))
    before = model.get_weights()
    first.trainable = False
    fit(slice(32, 48))
    first.trainable = True
    fit(slice(48, 64))
    reference = keras.models.clone_model(keras.Model(model.inputs, model.outputs))
    reference.compile(keras.optimizers.SGD(0.1), loss="mse")

    def after(part):
        reference.set_weights(before)
        reference.train_on_batch(X[part], Y[part])
        return reference.get_weights()

    expected = [*after(slice(48, 64))[:2], *after(slice(32, 64))[2:]]
    assert_all_close(model.get_weights(), expected, atol=1e-6)


class TwoPlayers(kc.Model):
    """Two nets of one shape, each with an optimizer of its own, on the same data."""

    def __init__(self, second):
        super().__init__()
        self.first_net, self.second_net = (
            keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])
            for _ in range(2)
        )
        self.second = second
        second.build(self.second_net.trainable_variables)

    def call(self, x):
        return self.first_net(x)

    def multi_gradient_step(self, x, y, sample_weight):
        for net, optimizer in ((self.first_net, self.optimizer), (self.second_net, self.second)):
            variables = net.trainable_variables
            loss, gradients = self.value_and_grad(
                lambda net=net: ops.mean(ops.square(net(x) - y)), variables, optimizer=optimizer
            )
            self.apply_gradients(gradients, variables, optimizer=optimizer)
        return {"loss": loss}


@pytest.mark.parametrize("last_window", ["update", "drop", "carry"])
def test_a_second_accumulate_is_as_the_first(last_window):
    """Ten batches, the last of them smaller, in windows of four."""

    def make():
        inner = keras.optimizers.SGD(0.1)
        return kc.optimizers.Accumulate(inner, 4, last_window=last_window)

    model = TwoPlayers(make())
    model.compile(make())
    for _ in range(2):
        model.fit(X[:77], Y[:77], batch_size=8, shuffle=False, verbose=0)
    assert_all_equal(model.first_net.get_weights(), model.second_net.get_weights())
    assert int(model.optimizer.iterations) == int(model.second.iterations) > 3
    assert int(model.optimizer.batches) == int(model.second.batches)
    if last_window == "update":
        expected = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")]
        )
        expected.compile(keras.optimizers.SGD(0.1), loss="mse")
        expected.fit(X[:77], Y[:77], batch_size=32, epochs=2, shuffle=False, verbose=0)
        assert_all_close(model.first_net.get_weights(), expected.get_weights(), atol=1e-6)


@pytest.mark.multi_optimizer
def test_one_for_the_trunk_and_one_for_the_head(model_class):
    """Inside a `MultiOptimizer`, with windows of two sizes; the last windows are not full."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    trunk = keras.layers.Dense(3, use_bias=False)
    model = model_class(inputs, keras.layers.Dense(1, use_bias=False)(trunk(inputs)))
    of_trunk, of_head = kc.optimizers.Accumulate(0.1, 2), kc.optimizers.Accumulate(0.1, 3)
    both = keras.optimizers.MultiOptimizer(lambda v: of_trunk if v is trunk.kernel else of_head)
    model.compile(both, loss="mse")
    weights = float64(model.get_weights())
    callbacks = [] if model_class is kc.Model else [kc.callbacks.FinishWindow()]
    model.fit(X[:56], Y[:56], batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
    sums = [0, 0]
    for k in range(7):
        x, y = X[8 * k : 8 * k + 8].astype("float64"), Y[8 * k : 8 * k + 8]
        residual = 2 * (x @ weights[0] @ weights[1] - y) / 8
        found = [x.T @ residual @ weights[1].T, (x @ weights[0]).T @ residual]
        sums = [a + b for a, b in zip(sums, found)]
        for place, steps in enumerate((2, 3)):
            if (k + 1) % steps == 0 or k == 6:
                held = k % steps + 1
                weights[place] = weights[place] - 0.1 * sums[place] / held
                sums[place] = 0
    assert_all_close(model.get_weights(), weights, atol=1e-6)
    assert [int(o.iterations) for o in (of_trunk, of_head)] == [4, 3]


def test_batches_of_graphs_are_weighted_by_what_the_loss_is_divided_by():
    """The first dimension of `x` is that of nodes; the loss is the mean over graphs."""

    class Graphs:
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.dense.build((None, 4))
            self.built = True

        def call(self, inputs):
            return ops.matmul(inputs["graphs"], self.dense(inputs["nodes"]))

    def graph_batches():
        rng = np.random.default_rng(5)
        for nodes, graphs in ((10, 2), (6, 5), (20, 3), (5, 4)):
            yield (
                {
                    "nodes": rng.normal(size=(nodes, 4)).astype("float32"),
                    "graphs": rng.normal(size=(graphs, nodes)).astype("float32"),
                },
                rng.normal(size=(graphs, 1)).astype("float32"),
            )

    model = type("M", (Graphs, kc.Model), {})()
    model.compile(kc.optimizers.Accumulate(keras.optimizers.SGD(0.1), 4), loss="mse")
    kernel = model.dense.kernel.numpy().astype("float64")
    total, count = 0, 0
    for x, y in graph_batches():
        model.train_on_batch(x, y)
        features = x["graphs"].astype("float64") @ x["nodes"]
        total, count = total + 2 * features.T @ (features @ kernel - y), count + len(y)
    np.testing.assert_allclose(model.dense.kernel.numpy(), kernel - 0.1 * total / count, atol=1e-5)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_sum_in_a_step_that_does_not_say_what_its_batch_is(graphs):
    """It closes over the tensors; or the parts of a batch have different first dimensions."""

    class Closing(kc.Model):
        def call(self, x):
            return self.dense(x["nodes"] if graphs else x)

        def multi_gradient_step(self, x, y, sample_weight):
            total = keras.losses.MeanSquaredError(reduction="sum")
            variables = self.trainable_variables
            batch = (x, y) if graphs else None

            def loss_function(*parts):
                return total(y, self(x, training=True))

            loss, gradients = self.value_and_grad(loss_function, variables, batch=batch)
            self.apply_gradients(gradients, variables)
            return {"loss": loss}

    model = Closing()
    model.dense = keras.layers.Dense(1, use_bias=False)
    model.dense.build((None, 4))
    model.built = True
    model.compile(kc.optimizers.Accumulate(0.001, 2))
    kernel = model.get_weights()[0].astype("float64")
    for part in (slice(0, 8), slice(8, 16)):
        x = {"nodes": X[part], "edges": X[:20]} if graphs else X[part]
        model.train_on_batch(x, Y[part])
    gradient = 2 * X[:16].T.astype("float64") @ (X[:16] @ kernel - Y[:16])
    np.testing.assert_allclose(model.get_weights()[0], kernel - 0.001 * gradient, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_accumulators_hold_batches_of_many_values(dtype):
    """Weights are relative: sums of 20,000 values a batch do not overflow 16 bits."""
    x, y = np.tile(X, (210, 1))[:20000], np.tile(Y, (210, 1))[:20000]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    weights = model.get_weights()
    model = kc.inject(model)
    optimizer = kc.optimizers.Accumulate(keras.optimizers.SGD(0.1), 2, accumulator_dtype=dtype)
    model.compile(optimizer, loss="mse")
    for part in (slice(0, 12000), slice(12000, 20000)):
        model.train_on_batch(x[part], y[part])
    expected = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    expected.set_weights(weights)
    expected.compile(keras.optimizers.SGD(0.1), loss="mse")
    expected.train_on_batch(x, y)
    assert_all_close(
        model.get_weights(), expected.get_weights(), atol=1e-3 if dtype == "float16" else 1e-5
    )


def masked(model_class, optimizer, **options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, 4))
    model = model_class(inputs, keras.layers.Dense(1)(keras.layers.Masking()(inputs)))
    model.compile(optimizer, loss="mse", **options)
    return model


def sequences(*valid):
    rng = np.random.default_rng(4)
    for steps in valid:
        x = rng.normal(size=(2, 5, 4)).astype("float32")
        x[:, steps:] = 0.0
        yield x, rng.normal(size=(2, 5, 1)).astype("float32")


@pytest.mark.parametrize("non_finite", ["skip_update", "skip_batch"])
@pytest.mark.parametrize("options", [{}, {"microbatch_size": 1}], ids=["whole", "micro-batches"])
def test_a_window_without_a_valid_step_is_a_step_of_zeros(options, non_finite):
    """As the large batch is: momentum goes on, nothing is skipped."""

    def momentum():
        return keras.optimizers.SGD(0.1, momentum=0.9)

    accumulating = kc.optimizers.Accumulate(momentum(), 2, non_finite=non_finite)
    model, expected = masked(kc.Model, accumulating, **options), masked(keras.Model, momentum())
    parts = list(sequences(3, 5, 0, 0, 0, 4))
    for x, y in parts:
        model.train_on_batch(x, y)
    for i in range(0, 6, 2):
        expected.train_on_batch(*(np.concatenate(pair) for pair in zip(parts[i], parts[i + 1])))
    assert int(accumulating.skipped_steps) == 0
    assert int(accumulating.iterations) == 3
    assert_all_close(model.get_weights(), expected.get_weights(), atol=1e-6)


def test_a_mask_of_ones_counts_as_no_mask():
    """Batches of sequences of different lengths: both weigh by the steps."""
    weights = []
    for with_mask in (False, True):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((None, 4))
        hidden = keras.layers.Masking(mask_value=99.0)(inputs) if with_mask else inputs
        model = kc.Model(inputs, keras.layers.Dense(1)(hidden))
        model.compile(kc.optimizers.Accumulate(keras.optimizers.SGD(0.1), 2), loss="mse")
        for x, y in sequences(5, 5, 5, 5):
            model.train_on_batch(x, y)
            model.train_on_batch(x[:, :2], y[:, :2])
        weights.append(model.get_weights())
    for a, b in zip(*weights):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError(reduction="sum")])
def test_gradients_that_a_step_adds_up_in_a_loop(loss):
    """What the loss is divided by does not leave the loop: the batches count by their samples."""

    class Loop(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            variables = self.trainable_variables

            def body(i, *sums):
                _, gradients = self.value_and_grad(
                    lambda: self.compute_loss(x, y, self(x, training=True)), variables
                )
                return i + 1, *(a + g / 2 for a, g in zip(sums, gradients))

            zeros = [ops.zeros(v.shape) for v in variables]
            _, *gradients = ops.while_loop(lambda i, *_: i < 2, body, (0, *zeros))
            self.apply_gradients(gradients, variables)
            return {"loss": ops.zeros(())}

    def trained(cls, optimizer, batch_size):
        model = cls(*functional())
        model.compile(optimizer, loss=loss)
        model.fit(X[:64], Y[:64], batch_size=batch_size, shuffle=False, verbose=0)
        return model.get_weights()

    sgd = keras.optimizers.SGD
    accumulated = trained(Loop, kc.optimizers.Accumulate(sgd(0.001), 2), 16)
    assert_all_close(accumulated, trained(keras.Model, sgd(0.001), 32), atol=1e-6)


def test_losses_with_different_divisors_are_warned_of():
    inputs = keras.Input((5, 4))
    masked_output = keras.layers.Dense(1)(keras.layers.Masking()(inputs))
    model = kc.Model(inputs, [masked_output, keras.layers.Dense(1)(inputs[:, 0])])
    model.compile(kc.optimizers.Accumulate("sgd", 2), loss=["mse", "mse"])
    x, y = next(sequences(3))
    with pytest.warns(UserWarning, match=r"several losses.*microbatch_size"):
        model.train_on_batch(x, [y, y[:, 0]])


@pytest.mark.backend("torch")
def test_inside_of_torch_compile(model_class):
    def trained(**options):
        model = model_class(*functional())
        model.compile(kc.optimizers.Accumulate("adam", 2), loss="mse", **options)
        model.fit(X[:48], Y[:48], batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    assert_all_close(trained(jit_compile=True), trained(), atol=1e-6)


def functional():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    return inputs, keras.layers.Dense(1)(keras.layers.Dense(3, activation="tanh")(inputs))


def test_without_a_gradient_at_all():
    optimizer = kc.optimizers.Accumulate("sgd", 2)
    variable = keras.Variable([1.0], name="idle")
    optimizer.build([variable])
    with pytest.raises(ValueError, match=r"No gradients provided.*idle"):
        optimizer.apply([None], [variable])


def test_variables_that_it_was_not_built_on():
    optimizer = kc.optimizers.Accumulate("sgd", 2)
    optimizer.build([keras.Variable([1.0])])
    stranger = keras.Variable([1.0], name="stranger")
    with pytest.raises(
        ValueError, match=r"built on other variables than \['stranger'\].*Make a new"
    ):
        optimizer.apply([ops.ones(1)], [stranger])


@pytest.mark.backend(
    "torch"
)  # where a step is not compiled, and sees `trainable` without `compile`
@pytest.mark.parametrize("finish", [False, True], ids=["alone", "finish-window"])
@pytest.mark.parametrize("cls", [keras.Model, kc.Model], ids=["keras", "mixin"])
def test_parts_that_are_trained_in_turns(cls, finish):
    """The first batch of the next part is no further call of the last batch of the one before."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 1)).astype("float32")

    def train(cls, optimizer, batch_size, callbacks=()):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        body, head = keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)
        model = cls(inputs, head(body(inputs)))
        model.compile(optimizer, loss="mse")
        optimizer.build(model.trainable_variables)
        for trained in (head, body, head, body):
            body.trainable, head.trainable = trained is body, trained is head
            arguments = {"batch_size": batch_size, "shuffle": False, "verbose": 0}
            model.fit(x, y, callbacks=list(callbacks), **arguments)
        assert int(optimizer.iterations.numpy()) == 4
        return model.get_weights()

    callbacks = [kc.callbacks.FinishWindow()] if finish else []
    optimizer = kc.optimizers.Accumulate(keras.optimizers.SGD(0.1), 2)
    weights = train(cls, optimizer, 4, callbacks)
    assert_all_close(
        weights, train(keras.Model, keras.optimizers.SGD(0.1), 8), rtol=1e-5, atol=1e-6
    )
