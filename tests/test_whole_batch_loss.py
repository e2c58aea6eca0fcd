"""`whole_batch_loss`: a loss that compares samples equals that of the large batch."""

import copy
import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_cool as kc
from harness import whole_batch_losses as losses
from support.comparisons import assert_all_close, assert_same_weights
from support.replicas import two_devices
from support.small_net import X, Y, net
from support.training import fit

BACKEND = keras.backend.backend()
SPLIT = {"microbatch_size": 16, "whole_batch_loss": True}
RNG = np.random.default_rng(0)
VIEWS = [(X + 0.3 * RNG.normal(size=X.shape)).astype("float32") for _ in range(2)]


def towers(model_class=kc.Model, *further):
    """Two linear towers side by side, with layers behind each."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((6,)), keras.Input((6,))]
    embeddings = []
    for h in inputs:
        h = layers.Dense(4, use_bias=False)(h)
        for make_layer in further:
            h = make_layer()(h)
        embeddings.append(h)
    return model_class(inputs, layers.Concatenate()(embeddings))


def trained(model, loss=losses.correlation, x=X, y=Y, optimizer=None, batch_size=40, **options):
    """Trains for 2 epochs of 3 batches of 40: micro-batches of 16, 16 and 8."""
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), loss=loss, **options)
    return model, fit(model, x, y, batch_size=batch_size, epochs=2)


def assert_same_run(run, expected, tolerance=1e-6):
    (model, logs), (reference, expected_logs) = run, expected
    assert_same_weights(model, reference, tolerance)
    logs = {name: values for name, values in logs.items() if name != "skipped_steps"}
    rel = max(1e-5, tolerance)
    assert logs == {name: pytest.approx(v, rel=rel) for name, v in expected_logs.items()}


# References that are not ours.


def info_nce_step(first, second, a, b, rate):
    """One step of gradient descent on InfoNCE with linear towers, in NumPy."""
    first, second = first.astype("float64"), second.astype("float64")
    u, v = first @ a, second @ b
    lengths = [np.linalg.norm(e, axis=1, keepdims=True) for e in (u, v)]
    u, v = u / lengths[0], v / lengths[1]
    logits = u @ v.T / losses.TEMPERATURE
    n = len(logits)

    def softmax(z):
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    of_logits = (softmax(logits) - np.eye(n)) + (softmax(logits.T) - np.eye(n)).T
    of_logits = of_logits / (2 * n * losses.TEMPERATURE)
    gradients = []
    for x, e, length, g in (
        (first, u, lengths[0], of_logits @ v),
        (second, v, lengths[1], of_logits.T @ u),
    ):
        of_embedding = (g - e * np.sum(e * g, axis=1, keepdims=True)) / length
        gradients.append(x.T @ of_embedding)
    return a - rate * gradients[0], b - rate * gradients[1]


def test_info_nce_equals_numpy_in_float64():
    model = towers()
    expected = [np.float64(w) for w in model.get_weights()]
    model.compile(keras.optimizers.SGD(0.5), loss=losses.info_nce, **SPLIT)
    fit(model, VIEWS, Y, batch_size=40)
    for i in range(0, len(X), 40):
        expected = info_nce_step(*(view[i : i + 40] for view in VIEWS), *expected, rate=0.5)
    assert_all_close(model.get_weights(), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.backend("torch")
def test_equals_two_passes_written_in_pytorch():
    import torch

    model = towers()
    tower = [torch.tensor(w, requires_grad=True) for w in model.get_weights()]
    model.compile(keras.optimizers.SGD(0.5), loss=losses.info_nce, **SPLIT)
    fit(model, [v[:40] for v in VIEWS], Y[:40], batch_size=40)

    parts = [[torch.from_numpy(v[:40])[i : i + 16] for i in (0, 16, 32)] for v in VIEWS]
    with torch.no_grad():
        embeddings = [torch.cat([p @ w for p in of]) for of, w in zip(parts, tower, strict=True)]
    embeddings = [e.requires_grad_() for e in embeddings]
    u, v = (torch.nn.functional.normalize(e) for e in embeddings)
    logits, own = u @ v.T / losses.TEMPERATURE, torch.arange(40)
    cross_entropy = torch.nn.functional.cross_entropy
    ((cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2).backward()
    for of, w, e in zip(parts, tower, embeddings, strict=True):
        for part, gradient in zip(of, e.grad.split(16), strict=False):
            (part @ w).backward(gradient)
    expected = [(w - 0.5 * w.grad).detach().numpy() for w in tower]
    assert_all_close(model.get_weights(), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.backend("jax")
def test_equals_the_whole_batch_in_jax():
    import jax
    import jax.numpy as jnp

    model = towers()
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.5), loss=losses.info_nce, **SPLIT)
    fit(model, [v[:40] for v in VIEWS], Y[:40], batch_size=40)

    def loss(weights):
        u, v = (x[:40] @ w for x, w in zip(VIEWS, weights, strict=True))
        u, v = (e / jnp.linalg.norm(e, axis=1, keepdims=True) for e in (u, v))
        logits = u @ v.T / losses.TEMPERATURE
        return (
            -(
                jnp.mean(jnp.diag(jax.nn.log_softmax(logits, axis=1)))
                + jnp.mean(jnp.diag(jax.nn.log_softmax(logits, axis=0)))
            )
            / 2
        )

    expected = [w - 0.5 * g for w, g in zip(before, jax.grad(loss)(before), strict=True)]
    assert_all_close(model.get_weights(), expected, rtol=2e-6, atol=1e-7)


# Random layers and layer state.


class PartByPart(layers.Layer):
    """Calls a layer on one part of the batch after another, as micro-batches are."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x, training=None):
        # On TensorFlow the first micro-batch is the one that is not full.
        bounds = (0, 8, 24, 40) if BACKEND == "tensorflow" else (0, 16, 32, 40)
        parts = [x[start:end] for start, end in itertools.pairwise(bounds)]
        return ops.concatenate([self.layer(part, training=training) for part in parts])


def noisy(**seeds):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(12, activation="tanh"),
            layers.Dropout(0.3, **seeds),
            layers.BatchNormalization(),
            layers.GaussianNoise(0.3, **seeds),
            layers.Dense(1),
        ]
    )


@pytest.mark.thinned(2)
@pytest.mark.parametrize("seeds", [{"seed": 3}, {}], ids=["seed", "no seed"])
@pytest.mark.parametrize("optimizer", ["SGD", "Heun"])
def test_the_second_pass_draws_what_the_first_drew(seeds, optimizer):
    """And moving statistics are updated once: against the same parts in one plain forward pass."""
    runs = []
    for model_class, wrap, options in (
        (keras.Model if optimizer == "SGD" else kc.Model, PartByPart, {}),
        (kc.Model, lambda layer: layer, SPLIT),
    ):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        model = model_class(inputs, wrap(noisy(**seeds))(inputs))
        method = keras.optimizers.SGD(0.1)
        method = kc.optimizers.Heun(method) if optimizer == "Heun" else method
        keras.utils.set_random_seed(1)
        model, logs = trained(model, optimizer=method, **options)
        logs.pop("gradient_evaluations", None)
        logs.pop("skipped_steps", None)
        runs.append((model, logs))
    assert_same_run(runs[1], runs[0], tolerance=3e-6)


# What enters the loss besides the outputs.


def test_losses_that_layers_add_count_once():
    """Activity and weight regularisers, `add_loss` of a scalar and of a value for each sample."""

    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(0.01 * ops.mean(x**2))
            self.add_loss(0.001 * ops.sum(ops.abs(x), axis=-1))
            return x

    def build(model_class):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        options = {"activity_regularizer": keras.regularizers.L2(0.1), "kernel_regularizer": "l2"}
        h = Penalty()(layers.Dense(12, activation="tanh", **options)(inputs))
        return model_class(inputs, layers.Dense(1)(h))

    expected = trained(build(keras.Model), metrics=["mae"])
    assert_same_run(trained(build(kc.Model), metrics=["mae"], **SPLIT), expected)
    other, _ = trained(build(kc.Model), microbatch_size=16)
    with pytest.raises(AssertionError):  # by micro-batches it is another loss
        assert_same_weights(other, expected[0], 1e-3)


def with_temperature(model_class):
    """InfoNCE in `compute_loss`, by a weight that no forward pass reads, and what layers added."""

    class Contrastive(model_class):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.log_scale = self.add_weight(shape=(), initializer="zeros", name="log_scale")

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = losses.info_nce(None, y_pred) * ops.exp(self.log_scale) - self.log_scale
            center = ops.sum(ops.square(ops.mean(x[0], axis=0)))
            return ops.mean(loss) + 0.1 * center * ops.mean(y_pred) + sum(self.losses)

    return Contrastive


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=str)
def test_a_loss_of_ones_own_reads_weights_and_inputs(options):
    regularised = layers.ActivityRegularization, {"l2": 0.01}
    model, reference = (
        towers(with_temperature(cls), lambda: regularised[0](**regularised[1]))
        for cls in (kc.Model, keras.Model)
    )
    expected = trained(reference, None, VIEWS)
    assert_same_run(trained(model, None, VIEWS, **SPLIT, **options), expected)
    assert abs(float(model.log_scale.numpy())) > 0.1


def several_outputs(model_class):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    h = layers.Dense(12, activation="tanh")(inputs)
    return model_class(inputs, {"score": layers.Dense(1)(h), "values": layers.Dense(2)(h)})


def test_several_outputs_of_which_one_is_compared():
    """Beside a mean with weights that it is divided by, and a sum; with loss weights."""
    mse = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    arguments = {
        "loss": {"score": losses.ranking, "values": mse},
        "y": {"score": (Y > 0).astype("float32"), "values": np.tanh(X[:, 2:4])},
        "loss_weights": {"score": 2.0, "values": 0.3},
        "metrics": {"score": ["mae"], "values": ["mse"]},
    }
    expected = trained(several_outputs(keras.Model), **arguments)
    assert_same_run(trained(several_outputs(kc.Model), **arguments, **SPLIT), expected)


def test_sample_weights_of_a_mean():
    weights = RNG.uniform(0.1, 3.0, size=len(X)).astype("float32")
    models = []
    for model_class, options in ((keras.Model, {}), (kc.Model, SPLIT)):
        model = towers(model_class)
        model.compile(keras.optimizers.SGD(0.5), loss=losses.info_nce, **options)
        fit(model, VIEWS, Y, batch_size=40, sample_weight=weights)
        models.append(model)
    assert_same_weights(models[1], models[0])


# Steps of one's own.


class OwnStep(kc.Model):
    """Outputs of any form: a mean over the samples, whole numbers, nothing; and what is returned
    beside the loss, of any form."""

    def multi_gradient_step(self, x, y, sample_weight):
        def forward(x, y):
            y_pred = self(x, training=True)
            return {
                "y_pred": y_pred,
                "mean": ops.mean(y_pred),
                "is_large": ops.cast(y > 0, "int32"),
                "none": None,
                "factor": 2.0,
            }

        def loss_function(x, y, outputs):
            centred = outputs["y_pred"] - outputs["mean"]
            wrong = losses.ranking(ops.cast(outputs["is_large"], "float32"), centred)
            loss = wrong + outputs["factor"] * ops.square(outputs["mean"])
            return loss, {"order": ops.argsort(centred[:, 0]), "covariance": ops.ones((2, 3))}

        variables = self.trainable_variables
        (loss, aux), gradients = self.value_and_grad(
            loss_function, variables, has_aux=True, batch=(x, y), forward=forward
        )
        self.apply_gradients(gradients, variables)
        return {"loss": loss, "entries": ops.sum(aux["covariance"]), "last": ops.max(aux["order"])}


def ranking_and_mean(y_true, y_pred):
    mean = ops.mean(y_pred)
    wrong = losses.ranking(ops.cast(y_true > 0, "float32"), y_pred - mean)
    return wrong + 2 * ops.square(mean)


@pytest.mark.parametrize("options", [{}, {"microbatch_size": 16}, SPLIT], ids=str)
def test_a_step_of_ones_own(options):
    model, logs = trained(net(OwnStep), None, **options)
    assert (logs.pop("entries")[-1], logs.pop("last")[-1]) == (6, 39)
    assert_same_run((model, logs), trained(net(keras.Model), ranking_and_mean))


# How it is compiled, saved and changed.

COMPILED = [{"run_eagerly": True}, {"steps_per_execution": 2}]
if BACKEND != "torch":
    COMPILED += [{"jit_compile": True}]
if BACKEND == "torch":
    COMPILED = COMPILED[:1]


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    ("size", "options"),
    [(size, {}) for size in (1, 20, 40, 100, None)] + [(16, options) for options in COMPILED],
    ids=str,
)
def test_any_size_under_any_compilation(size, options):
    batch_size = 40 if options.get("jit_compile") else 50  # and a last batch of 20
    expected = trained(net(keras.Model), metrics=["mae"], batch_size=batch_size)
    options = {"microbatch_size": size, "whole_batch_loss": True, **options}
    run = trained(net(), metrics=["mae"], batch_size=batch_size, **options)
    assert_same_run(run, expected)
    assert run[1].get("skipped_steps", [0, 0]) == [0, 0]


def test_injected_and_changed_between_fits():
    expected, _ = trained(net(keras.Model), "mae")
    fit(expected, X, Y, batch_size=40, epochs=2)
    model = kc.inject(net(keras.Model))
    trained(model, "mae", **SPLIT)
    model.microbatch_size, model.whole_batch_loss = None, False
    model.microbatch_size, model.whole_batch_loss = 10, True
    copied = copy.deepcopy(model)
    assert (copied.microbatch_size, copied.whole_batch_loss) == (10, True)
    fit(model, X, Y, batch_size=40, epochs=2)
    assert_same_weights(model, expected)


def test_loading_goes_on(tmp_path):
    expected, _ = trained(net(keras.Model), "mae", metrics=["mse"])
    fit(expected, X, Y, batch_size=40, epochs=2)
    model, _ = trained(net(), "mae", metrics=["mse"], **SPLIT)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (loaded.microbatch_size, loaded.whole_batch_loss) == (16, True)
    fit(loaded, X, Y, batch_size=40, epochs=2)
    assert_same_weights(loaded, expected)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_frozen_layers_and_a_weight_that_nothing_reads():
    def build(model_class):
        class Unread(model_class):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.unread = self.add_weight(shape=(2,), initializer="ones", name="unread")

        model = net(Unread)
        model.layers[1].trainable = False
        return model

    decay = keras.optimizers.SGD(0.1, weight_decay=0.1), keras.optimizers.SGD(0.1, weight_decay=0.1)
    expected = trained(build(keras.Model), optimizer=decay[0])
    assert_same_run(trained(build(kc.Model), optimizer=decay[1], **SPLIT), expected)


def test_quasi_newton_iterations():
    """Many evaluations in one compiled loop, and losses without gradients."""
    models = []
    for options in ({}, SPLIT):
        model = net()
        trained(model, optimizer=kc.optimizers.LBFGS(max_iterations=5), batch_size=120, **options)
        models.append(model)
    assert_same_weights(models[1], models[0], 1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    expected, _ = trained(net(keras.Model))
    keras.config.set_dtype_policy(policy)
    model, _ = trained(net(), **SPLIT)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (
        policy == "mixed_float16"
    )
    assert_same_weights(model, expected, 2e-2)


def test_float64(float64):
    expected = trained(net(keras.Model))
    assert_same_run(trained(net(), **SPLIT), expected, 1e-13)


def test_a_gradient_that_is_not_finite_skips_the_step():
    spoilt = X.copy()
    spoilt[50] = np.nan
    model, logs = trained(net(), x=spoilt, **SPLIT)
    assert logs["skipped_steps"] == [1, 2]
    assert all(np.isfinite(w).all() for w in model.get_weights())


# Replicas.


def regularised_towers(model_class, with_own_loss):
    """With all that enters a loss: what layers add, weight regularisers, a weight of its own."""
    further = lambda: layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l2")  # noqa: E731
    return towers(with_temperature(model_class) if with_own_loss else model_class, further)


@pytest.mark.thinned(3)
@pytest.mark.backend("jax", "tensorflow")
@pytest.mark.parametrize("loss", [losses.info_nce, losses.correlation, None])
@pytest.mark.parametrize("size", [8, None])
def test_replicas_have_the_loss_of_the_global_batch(loss, size):
    """A value for each sample, a scalar, and a `compute_loss`; unequal shares on TensorFlow."""
    samples = 115 if BACKEND == "tensorflow" else 120  # a last batch of 35
    x = [view[:samples] for view in VIEWS]
    y = x[0][:, :4].repeat(2, axis=1)
    arguments = {"loss": loss, "x": x, "y": y, "metrics": ["mae"]}
    expected = trained(regularised_towers(keras.Model, loss is None), **arguments)
    with two_devices():
        model = regularised_towers(kc.Model, loss is None)
        run = trained(model, **arguments, microbatch_size=size, whole_batch_loss=True)
    assert_same_run(run, expected, 2e-6)


@pytest.mark.backend("jax", "tensorflow")
def test_a_step_of_ones_own_on_replicas():
    expected = trained(net(keras.Model), ranking_and_mean)
    with two_devices():
        model, logs = trained(net(OwnStep), None, microbatch_size=8)
    assert (logs.pop("entries")[-1], logs.pop("last")[-1]) == (6, 39)
    assert_same_run((model, logs), expected)


# Errors.


@pytest.mark.parametrize("choice", [None, 1, "yes", losses.info_nce])
def test_the_choice_is_a_boolean(choice):
    with pytest.raises(ValueError, match="`True` or `False`"):
        net().compile("sgd", loss="mse", whole_batch_loss=choice)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: kc.optimizers.Accumulate("sgd", 4),
        lambda: keras.optimizers.SGD(gradient_accumulation_steps=4),
    ],
)
def test_accumulation_over_batches_is_refused(optimizer):
    with pytest.raises(ValueError, match=r"microbatch_size=16, whole_batch_loss=True"):
        net().compile(optimizer(), loss=losses.correlation, whole_batch_loss=True)
    model = net()
    model.compile(optimizer(), loss=losses.correlation)
    model.whole_batch_loss = True
    with pytest.raises(ValueError, match=r"is not a mean over the batches of a window"):
        fit(model, X, Y, batch_size=40)


def test_a_micro_batch_has_no_loss_of_its_own():
    for optimizer, match in (
        (kc.optimizers.SAM("sgd", per_part=True), "no loss of its own"),
        (kc.optimizers.LevenbergMarquardt(), "sums of squares"),
    ):
        with pytest.raises(ValueError, match=match):
            trained(net(), "mse", optimizer=optimizer, **SPLIT)
    model = net()
    model.compile("sgd", loss=losses.correlation, **SPLIT)
    with pytest.raises(ValueError, match="GradientNoiseScale"):
        fit(model, X, Y, batch_size=40, callbacks=[kc.callbacks.GradientNoiseScale()])


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        (lambda model, x: [model(x), ops.ones((3,))], r"float32 \(3,\)"),
        (lambda model, x: [model(x), ops.ones((16, 2)) * ops.mean(x)], r"float32 \(16, 2\)"),
        (lambda model, x: [model(x), np.ones((16, 2))], "of type ndarray"),
        (lambda model, x: [model(x), ops.cast(1, "int32")], "int32"),
    ],
)
def test_outputs_that_cannot_be_joined(outputs, match):
    class Own(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            self.value_and_grad(
                lambda x, outputs: ops.mean(outputs[0]),
                self.trainable_variables,
                batch=(x,),
                forward=lambda x: outputs(self, x),
            )
            return {}

    with pytest.raises(ValueError, match=match):
        trained(net(Own), None, batch_size=32, microbatch_size=16)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"forward": lambda x: x}, ValueError, "without the batch"),
        ({"forward": 3, "batch": (X,)}, TypeError, "a function of the batch"),
        ({"batch": (X,)}, ValueError, "was not told how to compute the outputs"),
    ],
)
def test_what_value_and_grad_has_to_be_told(arguments, error, match):
    class Own(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            self.value_and_grad(lambda *_: ops.zeros(()), self.trainable_variables, **arguments)

    options = SPLIT if "forward" not in arguments else {}
    with pytest.raises(error, match=match):
        trained(net(Own), None, **options)


def test_a_train_step_of_ones_own_is_refused():
    class Own(kc.Model):
        def train_step(self, *args):
            return {}

    with pytest.raises(ValueError, match="`train_step` of its own"):
        net(Own).compile("sgd", whole_batch_loss=True)


def test_a_gradient_in_closed_form_has_no_whole_batch():
    class Line(kc.Model):
        def __init__(self):
            super().__init__()
            self.slope = self.add_weight(shape=(1,), name="slope")

        def call(self, x):
            return self.slope * x

        def closed_form_gradient(self, x, y, sample_weight):
            return keras.ops.mean(self(x)), [keras.ops.mean(x, axis=0)]

    model = Line()
    model.compile("sgd", loss="mse", microbatch_size=2, whole_batch_loss=True)
    with pytest.raises(ValueError, match="mean over micro-batches"):
        model.fit(np.ones((4, 1)), np.ones((4, 1)), verbose=0)


def test_metrics_weigh_a_masked_output_as_keras_does():
    """On JAX Keras' step hands masks to the loss and not to metrics, elsewhere to both."""
    x = RNG.normal(size=(12, 5, 3)).astype("float32")
    x[:, 3:][RNG.random((12, 2)) < 0.5] = 0
    y = RNG.normal(size=(12, 5, 1)).astype("float32")
    weights = RNG.random((12, 5)).astype("float32")
    logs = []
    for model_class, options in ((keras.Model, {}), (kc.Model, SPLIT | {"microbatch_size": 5})):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((5, 3))
        model = model_class(inputs, layers.Dense(1)(layers.Masking()(inputs)))
        model.compile("sgd", "mse", weighted_metrics=["mae"], **options)
        logs.append(model.fit(x, y, 12, sample_weight=weights, verbose=0).history)
    for name, values in logs[0].items():
        assert logs[1][name] == pytest.approx(values, rel=1e-5)
