"""The cases in which a soft batch has to equal the large batch: one row of the table each."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

import keras_cool as kc
from harness import whole_batch_losses

SMALL, COUNT, EPOCHS = 16, 4, 2
LARGE = SMALL * COUNT
SAMPLES = 10 * LARGE  # 10 updates an epoch


def regression(samples=SAMPLES, outputs=1, **further):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 8)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(8, outputs))) + 0.1 * rng.normal(size=(samples, outputs))
    return {"x": x, "y": y.astype("float32"), **further}


@dataclasses.dataclass(frozen=True)
class Row:
    """One case: how model, optimizer and data are made, and how exact the result has to be.

    Attributes:
        name: What the row is about.
        build: A function of the model class that gives a functional model.
        optimizer: A function without arguments that gives a Keras optimizer.
        compile: Further arguments of `compile`.
        data: A function without arguments that gives the arguments of `fit`.
        tolerance: The largest relative difference of all weights to those of the large batch.
        policy: The dtype policy.
        inexact: The ways that cannot express the row, and why.
        reference: Builds the model that is trained with the large batch, where it is another.
        of_whole_batch: Whether the loss compares samples, and needs `whole_batch_loss=True`.
    """

    name: str
    build: Callable
    optimizer: Callable
    compile: dict = dataclasses.field(default_factory=lambda: {"loss": "mse"})
    data: Callable = regression
    tolerance: float = 1e-6
    policy: str = "float32"
    inexact: dict = dataclasses.field(default_factory=dict)
    reference: Callable | None = None
    of_whole_batch: bool = False


def weighted_regression():
    weights = np.random.default_rng(1).uniform(0.1, 3.0, size=SAMPLES).astype("float32")
    return regression(sample_weight=weights)


def classification():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 8)).astype("float32")
    y = np.argmax(x @ rng.normal(size=(8, 3)), axis=1)
    return {"x": x, "y": y, "class_weight": {0: 1.0, 1: 5.0, 2: 0.5}}


def two_targets(samples=SAMPLES):
    data = regression(samples, outputs=3)
    return {"x": data["x"], "y": [data["y"][:, :1], data["y"][:, 1:]]}


def sequences():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 12, 4)).astype("float32") + 1.0
    lengths = rng.integers(1, 13, size=SAMPLES)
    x[np.arange(12) >= lengths[:, None]] = 0.0
    return {"x": x, "y": np.cumsum(x.sum(-1, keepdims=True), axis=1) / 10}


def weighted_sequences():
    """A weight for each step of each sequence."""
    data = sequences()
    weights = np.random.default_rng(1).uniform(0.1, 3.0, size=data["x"].shape[:2])
    return {**data, "sample_weight": weights.astype("float32")}


def tokens():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 50, size=(SAMPLES, 6))
    return {"x": x, "y": (x.mean(axis=1, keepdims=True) / 50).astype("float32")}


def views(samples=SAMPLES):
    """Two views of each sample, and its class."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 8))
    both = [(x + 0.3 * rng.normal(size=x.shape)).astype("float32") for _ in range(2)]
    return {"x": both, "y": (x[:, :1] > 0).astype("float32")}


def one_view():
    data = views()
    return {"x": data["x"][0], "y": data["y"]}


def survival():
    """A time for each sample, and whether it is that of an event."""
    data = regression()
    time = np.exp(data["y"])
    event = np.random.default_rng(1).random(time.shape) < 0.7
    return {"x": data["x"], "y": np.concatenate([time, event], axis=1).astype("float32")}


def tower(further=(), name=None):
    hidden = layers.Dense(16, activation="tanh")
    return keras.Sequential([keras.Input((8,)), hidden, *further, layers.Dense(4)], name=name)


def side_by_side(towers, model_class):
    inputs = [keras.Input((8,)), keras.Input((8,))]
    embeddings = [tower(x) for tower, x in zip(towers, inputs, strict=True)]
    return model_class(inputs, layers.Concatenate()(embeddings))


def shared_tower(model_class):
    return side_by_side([tower()] * 2, model_class)


def two_towers(model_class):
    return side_by_side([tower(), tower()], model_class)


def with_dropout():
    return tower([layers.Dropout(0.3, seed=1)]), tower([layers.Dropout(0.3, seed=2)])


def towers_with_dropout(model_class):
    return side_by_side(with_dropout(), model_class)


class PartByPart(layers.Layer):
    """Calls a layer on one part of the batch after another."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        parts = [self.layer(x[i : i + SMALL]) for i in range(0, LARGE, SMALL)]
        return ops.concatenate(parts)


def towers_with_dropout_part_by_part(model_class):
    """The same, whose layers draw random numbers for one micro-batch after another."""
    return side_by_side([PartByPart(tower) for tower in with_dropout()], model_class)


def embedder(model_class):
    inputs = keras.Input((8,))
    return model_class(inputs, tower()(inputs))


def dense(model_class, first=None, **options):
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, activation="tanh", **options)(inputs)
    for layer in first or []:
        hidden = layer()(hidden)
    return model_class(inputs, layers.Dense(1)(hidden))


def classifier(model_class):
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, activation="tanh")(inputs)
    return model_class(inputs, layers.Dense(3, activation="softmax")(hidden))


def classifier_of_one(model_class):
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, activation="tanh")(inputs)
    return model_class(inputs, layers.Dense(1, activation="sigmoid")(hidden))


def two_outputs(model_class):
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, activation="tanh")(inputs)
    outputs = [layers.Dense(1, name="first")(hidden), layers.Dense(2, name="second")(hidden)]
    return model_class(inputs, outputs)


def masked(model_class):
    inputs = keras.Input((12, 4))
    hidden = layers.SimpleRNN(8, return_sequences=True)(layers.Masking(0.0)(inputs))
    return model_class(inputs, layers.Dense(1)(hidden))


def masked_twice(model_class):
    inputs = keras.Input((12, 4))
    hidden = layers.SimpleRNN(8, return_sequences=True)(layers.Masking(0.0)(inputs))
    backward = layers.Dense(1, name="first")(hidden)
    last = layers.Dense(1, name="second")(layers.Lambda(lambda x: x[:, -1], mask=no_mask)(hidden))
    return model_class(inputs, [backward, last])


def no_mask(inputs, mask=None):
    return None


def two_sequence_targets():
    data = sequences()
    return {"x": data["x"], "y": [data["y"], data["y"][:, -1]]}


def embedding(model_class):
    inputs = keras.Input((6,), dtype="int32")
    rows = layers.Embedding(50, 8, embeddings_initializer="glorot_uniform")(inputs)
    return model_class(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(rows)))


def embedding_as_a_product(model_class):
    """The same by a matrix product, whose gradient is dense.

    Keras' Adam on TensorFlow squares the entries of a sparse gradient before it adds up those of
    the same row, and so differs from itself on the other backends.
    """
    inputs = keras.Input((6,), dtype="int32")
    rows = layers.Dense(8, use_bias=False)(ops.one_hot(inputs, 50))
    return model_class(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(rows)))


def constrained(model_class):
    return dense(model_class, kernel_constraint=keras.constraints.MaxNorm(0.7))


def frozen_batch_normalization(model_class):
    return dense(model_class, first=[lambda: layers.BatchNormalization(trainable=False)])


def group_normalization(model_class):
    return dense(model_class, first=[lambda: layers.GroupNormalization(4)])


def sgd(**options):
    return lambda: keras.optimizers.SGD(0.05, **options)


def adam(**options):
    return lambda: keras.optimizers.Adam(0.01, **options)


def warm_up_and_cosine():
    schedule = keras.optimizers.schedules.CosineDecay(
        0.001, decay_steps=15, warmup_target=0.02, warmup_steps=5
    )
    return keras.optimizers.Adam(schedule)


def mse(reduction):
    return {"loss": keras.losses.MeanSquaredError(reduction=reduction)}


NO_SIZE = "without the mixin the optimizer does not know the sizes of the batches"
NO_NORMALISER = "without the mixin the optimizer does not know what the loss was divided by"
NO_SUM = "without the mixin the optimizer takes the loss for a mean"
TWO_NORMALISERS = "two losses that are divided by different numbers need the whole batch"
SEVERAL_POINTS = "a method needs the gradient of the whole batch at several points"
COMPARES = "the loss compares the samples of the whole batch"


def of_whole_batch(name, build, loss, optimizer=None, data=views, **options):
    """A row whose loss compares samples."""
    return Row(
        name,
        build,
        optimizer or sgd(momentum=0.9),
        compile={"loss": getattr(whole_batch_losses, loss)},
        data=data,
        inexact={"Accumulate": COMPARES, "Accumulate, mixin": COMPARES},
        of_whole_batch=True,
        **options,
    )


ROWS = [
    Row("SGD", dense, sgd()),
    Row("momentum", dense, sgd(momentum=0.9)),
    Row("Nesterov", dense, sgd(momentum=0.9, nesterov=True)),
    Row("RMSprop", dense, lambda: keras.optimizers.RMSprop(0.01), tolerance=1e-5),
    Row("Adam", dense, adam(), tolerance=1e-5),
    Row("AdamW with decay", dense, lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1)),
    Row("Lion", dense, lambda: keras.optimizers.Lion(0.001), tolerance=1e-5),
    Row("Adafactor", dense, lambda: keras.optimizers.Adafactor(0.01), tolerance=1e-5),
    Row("Muon", dense, lambda: keras.optimizers.Muon(0.01), tolerance=1e-5),
    Row("Lamb", dense, lambda: keras.optimizers.Lamb(0.01), tolerance=1e-5),
    Row("clipnorm", dense, adam(clipnorm=0.1), tolerance=1e-5),
    Row("clipvalue", dense, sgd(clipvalue=0.05)),
    Row("global_clipnorm", dense, sgd(momentum=0.9, global_clipnorm=0.1)),
    Row("cosine schedule with warm-up", dense, warm_up_and_cosine, tolerance=1e-5),
    Row(
        "EMA with overwrite",
        dense,
        adam(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=7),
        tolerance=1e-5,
    ),
    Row("sample weights", dense, sgd(momentum=0.9), data=weighted_regression),
    Row(
        "class weights",
        classifier,
        sgd(momentum=0.9),
        compile={"loss": "sparse_categorical_crossentropy"},
        data=classification,
    ),
    Row(
        "mean_with_sample_weight loss",
        dense,
        sgd(momentum=0.9),
        compile=mse("mean_with_sample_weight"),
        data=weighted_regression,
        inexact={"Accumulate": NO_NORMALISER},
    ),
    Row(
        "sum loss",
        dense,
        lambda: keras.optimizers.SGD(0.001),
        compile=mse("sum"),
        inexact={"Accumulate": NO_SUM},
    ),
    Row(
        "two sum losses, last window not full",
        two_outputs,
        lambda: keras.optimizers.SGD(0.001),
        compile={"loss": [mse("sum")["loss"], mse("sum")["loss"]]},
        data=lambda: two_targets(9 * LARGE + SMALL + 5),
        inexact={"Accumulate": NO_SUM},
    ),
    Row(
        "L2 regulariser, mean loss",
        lambda model_class: dense(model_class, kernel_regularizer=keras.regularizers.L2(0.1)),
        sgd(momentum=0.9),
    ),
    Row(
        "L2 regulariser, sum loss",
        lambda model_class: dense(model_class, kernel_regularizer=keras.regularizers.L2(5.0)),
        lambda: keras.optimizers.SGD(0.001),
        compile=mse("sum"),
        inexact={"Accumulate": NO_SUM},
    ),
    Row(
        "activity regulariser",
        lambda model_class: dense(model_class, activity_regularizer=keras.regularizers.L2(0.1)),
        sgd(momentum=0.9),
    ),
    Row(
        "masked sequence, unequal lengths",
        masked,
        sgd(momentum=0.9),
        data=sequences,
        inexact={"Accumulate": NO_NORMALISER},
    ),
    Row(
        "masked sequence, weights of steps",
        masked,
        sgd(momentum=0.9),
        data=weighted_sequences,
        inexact={"Accumulate": NO_NORMALISER},
    ),
    Row(
        "the same, mean_with_sample_weight loss",
        masked,
        sgd(momentum=0.9),
        compile=mse("mean_with_sample_weight"),
        data=weighted_sequences,
        inexact={"Accumulate": NO_NORMALISER},
    ),
    Row(
        "masked and unmasked output",
        masked_twice,
        sgd(),
        compile={"loss": ["mse", "mae"]},
        data=two_sequence_targets,
        inexact={"Accumulate": NO_NORMALISER, "Accumulate, mixin": TWO_NORMALISERS},
    ),
    Row(
        "two outputs with loss weights",
        two_outputs,
        sgd(momentum=0.9),
        compile={"loss": ["mse", "mae"], "loss_weights": [0.3, 2.0]},
        data=two_targets,
    ),
    Row("variables with constraints", constrained, sgd(momentum=0.9)),
    Row(
        "embedding",
        embedding,
        adam(),
        data=tokens,
        tolerance=1e-5,
        reference=embedding_as_a_product,
    ),
    Row(
        "last window not full",
        dense,
        sgd(momentum=0.9),
        data=lambda: regression(9 * LARGE + 2 * SMALL),
    ),
    Row(
        "last batch smaller",
        dense,
        sgd(momentum=0.9),
        data=lambda: regression(9 * LARGE + SMALL + 5),
        inexact={"Accumulate": NO_SIZE},
    ),
    Row("mixed_bfloat16", dense, sgd(momentum=0.9), policy="mixed_bfloat16", tolerance=1e-2),
    Row("batch normalisation, frozen", frozen_batch_normalization, sgd(momentum=0.9)),
    Row("group normalisation", group_normalization, sgd(momentum=0.9)),
    Row(
        "Heun",
        dense,
        lambda: kc.optimizers.Heun(keras.optimizers.SGD(0.05, momentum=0.9)),
        inexact={"Accumulate": SEVERAL_POINTS, "Accumulate, mixin": SEVERAL_POINTS},
    ),
    Row(
        "RK4 over Adam",
        dense,
        lambda: kc.optimizers.RK4(keras.optimizers.Adam(0.01)),
        tolerance=1e-5,
        inexact={"Accumulate": SEVERAL_POINTS, "Accumulate, mixin": SEVERAL_POINTS},
    ),
    Row(
        "RK23 with step size control",
        dense,
        lambda: kc.optimizers.RK23(rtol=1e-2, atol=1e-3),
        tolerance=1e-5,
        inexact={"Accumulate": SEVERAL_POINTS, "Accumulate, mixin": SEVERAL_POINTS},
    ),
    of_whole_batch("InfoNCE, one tower", shared_tower, "info_nce"),
    of_whole_batch("InfoNCE, two towers", two_towers, "info_nce"),
    of_whole_batch(
        "InfoNCE, two towers with dropout",
        towers_with_dropout,
        "info_nce",
        reference=towers_with_dropout_part_by_part,
    ),
    of_whole_batch("InfoNCE, Adam", two_towers, "info_nce", optimizer=adam(), tolerance=1e-5),
    of_whole_batch(
        "InfoNCE, Heun",
        two_towers,
        "info_nce",
        optimizer=lambda: kc.optimizers.Heun(keras.optimizers.SGD(0.05, momentum=0.9)),
    ),
    of_whole_batch(
        "InfoNCE, SAM",
        two_towers,
        "info_nce",
        optimizer=lambda: kc.optimizers.SAM(keras.optimizers.SGD(0.05, momentum=0.9)),
    ),
    of_whole_batch(
        "InfoNCE, last batch of 40",
        two_towers,
        "info_nce",
        data=lambda: views(9 * LARGE + 40),
    ),
    of_whole_batch(
        "InfoNCE, mixed_bfloat16", two_towers, "info_nce", policy="mixed_bfloat16", tolerance=1e-2
    ),
    of_whole_batch("supervised contrastive", embedder, "supervised_contrastive", data=one_view),
    of_whole_batch("Dice over the batch", classifier_of_one, "dice", data=one_view),
    of_whole_batch("Cox's partial likelihood", dense, "cox", data=survival),
    of_whole_batch("correlation", dense, "correlation", data=regression),
    of_whole_batch("AUC by pairs", dense, "ranking", data=one_view),
]


def weights_of_the_large_batch(row, model_class=keras.Model):
    """What `weights_after` gives for the large batch, computed at once."""
    if row.reference is not None:
        row = dataclasses.replace(row, build=row.reference)
    return weights_after(row, model_class, LARGE)


def weights_after(row, model_class, batch_size, wrap=lambda optimizer: optimizer, **options):
    """Trains the row's model and gives its weights.

    Args:
        row: A `Row`.
        model_class: `keras.Model`, or `keras_cool.Model`.
        batch_size: Integer, the number of samples of a batch in `fit`.
        wrap: A function of the row's optimizer that gives the one to compile with.
        **options: `microbatch_size` and `whole_batch_loss`, for `compile`, and `callbacks`, for
            `fit`.

    Returns:
        `(weights, history)`: a vector of all weights in float64, and the logs of the epochs.
    """
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(row.policy)
    try:
        model = row.build(model_class)
        for_compile = {k: v for k, v in options.items() if k != "callbacks"}
        if row.of_whole_batch and for_compile:
            for_compile["whole_batch_loss"] = True
        model.compile(wrap(row.optimizer()), **row.compile, **for_compile)
        callbacks = options.get("callbacks")
        history = model.fit(
            **row.data(),
            batch_size=batch_size,
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
    finally:
        keras.config.set_dtype_policy("float32")
    weights = np.concatenate([np.float64(ops.convert_to_numpy(w)).ravel() for w in model.weights])
    return weights, history.history


def relative_difference(weights, expected):
    """The norm of the difference of two vectors of weights, over that of the second."""
    return np.linalg.norm(weights - expected) / np.linalg.norm(expected)
