"""Row-sparse gradients train as dense ones do, where they are said to, and touch no other row."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from keras_cool.backend import rows
from support.comparisons import assert_same_state, assert_same_weights
from support.embeddings import MODELS, ROWS, WEIGHTS, WIDTH, Cbow, SkipGram, ids, make, table
from support.replicas import mirrored_strategy

AUTODIFF = {"closed_form_gradient": None}
BY_ROWS = {
    "make_gradient": lambda self, layer, ids, g: kc.RowSparse(ids, g, layer.embeddings.shape)
}

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.5),
    "sgd, schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.5)
    ),
    "sgd, global_clipnorm": lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.01),
    "sgd, clipvalue": lambda: keras.optimizers.SGD(0.5, clipvalue=0.002),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adagrad, clipnorm": lambda: keras.optimizers.Adagrad(0.1, clipnorm=0.01),
}


def trained(kind, optimizer, attributes, fits=1, weights=WEIGHTS, base=kc.Model, **options):
    model = make(kind, base, **attributes)
    model.compile(optimizer, loss=kind.loss, **options)
    for _ in range(fits):
        model.fit(*kind.data(), 16, verbose=0, shuffle=False, sample_weight=weights)
    return model


def dense(kind, optimizer, **options):
    """Keras' own update with dense gradients: those in closed form, on all backends."""
    return trained(kind, optimizer, {}, **options)


@pytest.mark.filterwarnings("error:The gradients of embedding tables")
@pytest.mark.thinned(4)
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_alone_equal_the_dense_update(name, kind):
    """Repeated rows, an uneven last batch, weights; by automatic differentiation and in closed
    form."""
    expected = dense(kind, OPTIMIZERS[name]())
    for attributes, options in ((AUTODIFF, {"row_sparse": True}), (BY_ROWS, {})):
        model = trained(kind, OPTIMIZERS[name](), attributes, **options)
        assert_same_weights(model, expected, 1e-6)
        assert int(model.optimizer.iterations) == int(expected.optimizer.iterations) == 3


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    "options",
    [
        {"run_eagerly": True},
        {"jit_compile": True},
        {"row_sparse": ["second"]},
        {"microbatch_size": 6},
        {"microbatch_size": 6, "jit_compile": True},
        {"microbatch_size": 6, "run_eagerly": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("error:The gradients of embedding tables")
def test_ways_to_compile(options):
    expected = dense(SkipGram, keras.optimizers.Adagrad(0.1), fits=2)
    options = {"row_sparse": True, **options}
    model = trained(SkipGram, keras.optimizers.Adagrad(0.1), AUTODIFF, fits=2, **options)
    assert_same_weights(model, expected, 1e-6)


@pytest.mark.filterwarnings("error:The gradients of embedding tables")
@pytest.mark.parametrize("attributes", [AUTODIFF, BY_ROWS], ids=["autodiff", "closed form"])
def test_micro_batches_join_their_rows(attributes):
    """Rows that several micro-batches read count as one for an optimizer that is not linear, and
    the other rows stay. A batch of 16 ends in a micro-batch of 4."""
    models = []
    for microbatch_size in (6, None):
        model = make(SkipGram, kc.Model, **attributes)
        model.compile(
            kc.optimizers.LazyAdam(0.1, global_clipnorm=0.01),
            loss=SkipGram.loss,
            row_sparse=True,
            microbatch_size=microbatch_size,
        )
        model.fit(*SkipGram.data(), 16, verbose=0, shuffle=False, sample_weight=WEIGHTS)
        models.append(model)
    assert_same_weights(*models, 1e-6)


def test_callbacks_see_the_gradients_of_micro_batches_dense():
    logs = []
    for row_sparse in (True, False):
        model = make(SkipGram, kc.Model, **AUTODIFF)
        model.compile(
            OPTIMIZERS["sgd"](), loss=SkipGram.loss, row_sparse=row_sparse, microbatch_size=4
        )
        callbacks = [kc.callbacks.GradientNoiseScale(), kc.callbacks.StepMonitor()]
        fit = model.fit(*SkipGram.data(), 16, shuffle=False, verbose=0, callbacks=callbacks)
        logs.append(fit.history)
    assert logs[0].keys() == logs[1].keys() >= {"gradient_noise_scale", "gradient_norm"}
    for name, values in logs[0].items():
        np.testing.assert_allclose(values, logs[1][name], rtol=1e-5)


@pytest.mark.parametrize("make_optimizer", [OPTIMIZERS["sgd"], lambda: kc.optimizers.LazyAdam(0.1)])
def test_a_gradient_that_is_not_finite_reaches_no_row(make_optimizer):
    model = make(SkipGram, kc.Model, **AUTODIFF)
    model.compile(make_optimizer(), loss=SkipGram.loss, row_sparse=True, microbatch_size=6)
    x, y = SkipGram.data()
    model.fit(x, y, 16, verbose=0)
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    bad = np.ones(len(y), "float32")
    bad[3] = np.nan
    model.fit(x, y, len(y), verbose=0, sample_weight=bad)
    after = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_gradient_by_plain_keras_is_the_same():
    """The reference is `keras.Model` with its own step, all of it."""
    expected = trained(Cbow, keras.optimizers.SGD(0.5), {}, base=keras.Model)
    model = trained(Cbow, keras.optimizers.SGD(0.5), AUTODIFF, row_sparse=True)
    assert_same_weights(model, expected, 1e-6)


class Text(kc.Model):
    """A sequence with a mask, and what else may read the table."""

    def __init__(self, tied=False, constraint=None, regularizer=None):
        super().__init__()
        self.words = keras.layers.Embedding(
            ROWS,
            WIDTH,
            mask_zero=True,
            embeddings_constraint=constraint,
            embeddings_regularizer=regularizer,
            name="words",
        )
        self.mean, self.tied = keras.layers.GlobalAveragePooling1D(), tied
        self.out = keras.layers.Dense(ROWS)

    def call(self, x):
        state = self.mean(self.words(x)) + ops.mean(self.words(x[:, :2]), axis=1)
        if self.tied:
            return ops.matmul(state, ops.transpose(self.words.embeddings))
        return self.out(state)


def text(optimizer, row_sparse=True, **options):
    keras.utils.set_random_seed(1)
    model = Text(**options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, row_sparse=row_sparse)
    x = ids(7, 5)
    x[::3, 3:] = 0
    model.fit(x, ids(8), 16, 2, 0, shuffle=False)
    return model


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    "options",
    [{}, {"tied": True}, {"regularizer": "l2"}, {"constraint": "non_neg"}],
    ids=["two look-ups", "tied", "regularised", "constrained"],
)
def test_masks_and_tables_that_are_read_otherwise(options):
    model, expected = (text(keras.optimizers.SGD(0.5), by, **options) for by in (True, False))
    assert_same_weights(model, expected, 1e-6)


def gradients_of(model, x, y):
    """What the step hands to the optimizer, outside of a compiled step."""
    found = []
    apply = model.apply_gradients

    def catch(gradients, variables, optimizer=None):
        found[:] = gradients
        apply(gradients, variables, optimizer)

    model.__dict__["apply_gradients"] = catch
    model.run_eagerly = True
    model.train_function = None
    model.fit(x, y, len(x if not isinstance(x, tuple) else x[0]), verbose=0)
    return dict(zip([v.path.split("/")[-2] for v in model.trainable_variables], found, strict=True))


@pytest.mark.parametrize(("tied", "expected"), [(False, True), (True, False)])
def test_a_table_that_is_read_as_a_whole_has_a_dense_gradient(tied, expected):
    model = text(keras.optimizers.SGD(0.1), tied=tied)
    gradient = gradients_of(model, ids(7, 5), ids(8))["words"]
    assert isinstance(gradient, kc.RowSparse) is expected


def test_the_gradient_has_the_rows_of_the_batch_and_no_more():
    model = trained(SkipGram, keras.optimizers.SGD(0.1), AUTODIFF, row_sparse=["second"])
    (x, y) = SkipGram.data()
    gradients = gradients_of(model, x, y)
    assert not isinstance(gradients["first"], kc.RowSparse)
    read = np.sort(ops.convert_to_numpy(gradients["second"].indices))
    np.testing.assert_array_equal(read, np.sort(x[1].ravel()))


def test_negative_indices_count_from_the_end():
    gradient = kc.RowSparse([[-1, ROWS - 1]], np.ones((1, 2, WIDTH), "float32"), (ROWS, WIDTH))
    expected = np.zeros((ROWS, WIDTH))
    expected[-1] = 2
    np.testing.assert_array_equal(ops.convert_to_numpy(gradient.dense()), expected)
    merged = rows.merged(gradient)
    np.testing.assert_array_equal(ops.convert_to_numpy(merged.dense()), expected)
    variable = keras.Variable(np.zeros((ROWS, WIDTH), "float32"))
    rows.add(variable, gradient.indices, gradient.values)
    np.testing.assert_array_equal(variable.numpy(), expected)


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    ("make_optimizer", "options", "reason"),
    [
        (lambda: keras.optimizers.Adam(0.1), {}, "Adam updates all rows"),
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9), {}, "SGD updates all rows"),
        (lambda: keras.optimizers.SGD(0.1, weight_decay=0.1), {}, "`weight_decay` of SGD"),
        (lambda: keras.optimizers.Adagrad(0.1, use_ema=True), {}, "`use_ema` of Adagrad"),
        (lambda: kc.optimizers.Accumulate("sgd", 2), {}, "Accumulate adds up"),
        (lambda: kc.optimizers.Heun(0.1), {}, "Heun combines"),
        (
            lambda: keras.optimizers.SGD(0.1),
            {"microbatch_size": 6, "whole_batch_loss": True},
            "two passes of `whole_batch_loss`",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_others_get_dense_gradients_and_one_warning(make_optimizer, options, reason):
    expected = dense(SkipGram, make_optimizer())
    with pytest.warns(UserWarning, match="The gradients of embedding tables") as warned:
        model = trained(SkipGram, make_optimizer(), AUTODIFF, row_sparse=True, **options)
    told = [str(w.message) for w in warned if "embedding tables" in str(w.message)]
    assert len(told) == 1
    assert reason in told[0]
    assert "LazyAdam" in told[0]
    assert_same_weights(model, expected, 1e-5)


def test_frozen_tables_stay():
    model = make(SkipGram, kc.Model, **AUTODIFF)
    model.first.trainable = False
    model.compile(keras.optimizers.SGD(0.5), loss=SkipGram.loss, row_sparse=True)
    before = model.get_weights()
    model.fit(*SkipGram.data(), 16, verbose=0)
    changed = [(a != b).any() for a, b in zip(before, model.get_weights(), strict=True)]
    assert sorted(changed) == [False, True]


def functional(row_sparse=True, optimizer=None):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((4,), dtype="int32")
    hidden = keras.layers.Embedding(ROWS, WIDTH, name="words")(inputs)
    outputs = keras.layers.Dense(1)(keras.layers.Flatten()(hidden))
    model = kc.Model(inputs, outputs)
    model.compile(optimizer or kc.optimizers.LazyAdam(0.1), loss="mse", row_sparse=row_sparse)
    return model


@pytest.mark.parametrize("row_sparse", [True, ["words"]])
def test_saved_and_resumed_to_the_bit(row_sparse, tmp_path):
    data = {"x": ids(9, 4), "y": WEIGHTS[:, None], "batch_size": 16, "verbose": 0, "shuffle": False}
    whole, first = functional(row_sparse), functional(row_sparse)
    whole.fit(**data, epochs=2)
    first.fit(**data)
    first.save(tmp_path / "half.keras")
    second = keras.saving.load_model(tmp_path / "half.keras")
    assert second.row_sparse == row_sparse
    second.fit(**data)
    assert_same_state(second, whole)


def test_an_injected_model_and_a_copy_of_it():
    model = kc.inject(keras.models.clone_model(functional()))
    model.compile("sgd", loss="mse", row_sparse=[model.get_layer("words")])
    assert model.row_sparse == ["words"]
    model.row_sparse = True
    gradient = gradients_of(model, ids(9, 4), WEIGHTS[:, None])["words"]
    assert isinstance(gradient, kc.RowSparse)


def test_layers_with_state_and_a_sum():
    """On JAX the shapes of the rows come from a run that is not to leave anything behind."""
    models = []
    for row_sparse in (True, False):
        keras.utils.set_random_seed(2)
        inputs = keras.Input((4,), dtype="int32")
        hidden = keras.layers.Embedding(ROWS, WIDTH)(inputs)
        hidden = keras.layers.Dropout(0.3, seed=1)(keras.layers.BatchNormalization()(hidden))
        model = kc.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(hidden)))
        loss = keras.losses.MeanSquaredError(reduction="sum")
        model.compile(keras.optimizers.SGD(0.001), loss, metrics=["mae"], row_sparse=row_sparse)
        logs = model.fit(ids(9, 4), WEIGHTS[:, None], 16, 2, 0, shuffle=False).history
        models.append((model, logs))
    (model, logs), (expected, of_expected) = models
    assert_same_weights(model, expected, 1e-6)
    for name, values in of_expected.items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-5)


def test_a_table_that_is_read_in_a_loop():
    class Loop(kc.Model):
        def __init__(self):
            super().__init__()
            self.words = table("words")

        def call(self, x):
            start = ops.zeros((ops.shape(x)[0], WIDTH))
            total = ops.fori_loop(0, 4, lambda i, t: t + self.words(ops.take(x, i, axis=1)), start)
            return ops.sum(total + self.words(x[:, 0]), axis=-1, keepdims=True)

    models = []
    for row_sparse in (True, False):
        keras.utils.set_random_seed(2)
        model = Loop()
        model.compile(keras.optimizers.SGD(0.1), loss="mse", row_sparse=row_sparse)
        model.fit(ids(9, 4), WEIGHTS[:, None], 16, verbose=0, shuffle=False)
        models.append(model)
    assert_same_weights(*models, 1e-6)


def of_mapped_samples(words, x):
    return ops.vectorized_map(lambda row: ops.sum(words(row), axis=0), x)


def of_a_part_computed_again(words, x):
    return keras.remat(lambda x: ops.tanh(ops.sum(words(x), axis=1)))(x)


PARTS = [of_mapped_samples]
if keras.backend.backend() != "tensorflow":  # whose own `keras.remat` fails
    PARTS.append(of_a_part_computed_again)


@pytest.mark.parametrize("part", PARTS)
def test_a_table_that_is_read_in_another_kind_of_part(part):
    class Parts(kc.Model):
        def __init__(self):
            super().__init__()
            self.words = table("words")

        def call(self, x):
            return ops.sum(part(self.words, x) + self.words(x[:, 0]), axis=-1, keepdims=True)

    models = []
    for row_sparse in (True, False):
        keras.utils.set_random_seed(2)
        model = Parts()
        model.compile(keras.optimizers.SGD(0.1), loss="mse", row_sparse=row_sparse)
        model.fit(ids(9, 4), WEIGHTS[:, None], 16, verbose=0, shuffle=False)
        models.append(model)
    assert_same_weights(*models, 1e-6)


@pytest.mark.backend("tensorflow")
@pytest.mark.filterwarnings("ignore:The gradients of embedding tables")
def test_on_replicas():
    (words, contexts), y = SkipGram.data()
    models = []
    for attributes in (AUTODIFF, BY_ROWS, {}):
        with mirrored_strategy().scope() if attributes else contextlib.nullcontext():
            model = make(SkipGram, kc.Model, **attributes)
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.5), loss, row_sparse=attributes is AUTODIFF)
        model.fit((words[:32], contexts[:32]), y[:32], 16, verbose=0, shuffle=False)
        models.append(model)
    assert_same_weights(models[0], models[2], 1e-6)
    assert_same_weights(models[1], models[2], 1e-6)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        models = [functional(row_sparse, "sgd") for row_sparse in (True, False)]
    finally:
        keras.config.set_dtype_policy("float32")
    for model in models:
        model.fit(ids(9, 4), WEIGHTS[:, None], 16, verbose=0, shuffle=False)
    assert_same_weights(*models, 2e-3)


def test_float64(float64):
    models = [functional(row_sparse, keras.optimizers.SGD(0.1)) for row_sparse in (True, False)]
    for model in models:
        model.fit(ids(9, 4), WEIGHTS[:, None], 16, verbose=0, shuffle=False)
    assert_same_weights(*models, 1e-13)


@pytest.mark.backend("jax")
@pytest.mark.parametrize("microbatch_size", [None, 6])
def test_the_table_is_updated_in_place(microbatch_size):
    """A step of a table of 20 MB needs less memory than that, and gives its buffer back."""
    import jax

    large, width = 80_000, 64
    model = make(SkipGram, kc.Model, **AUTODIFF)
    model.first, model.second = table("a", large, width), table("b", large, width)
    model.compile(
        keras.optimizers.Adagrad(0.1),
        loss=SkipGram.loss,
        row_sparse=True,
        microbatch_size=microbatch_size,
    )
    model.optimizer.build(model.trainable_variables)
    (x, y) = SkipGram.data()
    model._symbolic_build(data_batch=(x, y))
    state = tuple([v.value for v in group] for group in model._state_variables())
    compiled = jax.jit(model.train_step, donate_argnums=0).lower(state, (x, y)).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < large * width * 4 / 10
    assert memory.alias_size_in_bytes > 4 * large * width * 4


@pytest.mark.backend("jax")
@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_on_several_devices(microbatch_size):
    distribution = keras.distribution.DataParallel(
        devices=keras.distribution.list_devices(), auto_shard_dataset=False
    )
    models = []
    for spread in (True, False):
        keras.distribution.set_distribution(distribution if spread else None)
        try:
            model = functional(True, keras.optimizers.Adagrad(0.1))
            model.microbatch_size = microbatch_size if spread else None
            model.fit(ids(9, 4)[:40], WEIGHTS[:40, None], 20, verbose=0, shuffle=False)
        finally:
            keras.distribution.set_distribution(None)
        models.append(model)
    assert_same_weights(*models, 1e-6)


@pytest.mark.parametrize(
    ("row_sparse", "error", "message"),
    [
        ("words", TypeError, "was given 'words'"),
        ([3], TypeError, "There was 3"),
        (["other"], ValueError, r"names \['other'\].*\['words'\]"),
    ],
)
def test_errors_of_compile(row_sparse, error, message):
    with pytest.raises(error, match=message):
        functional(row_sparse).fit(ids(9, 4), WEIGHTS[:, None], verbose=0)


@pytest.mark.parametrize("index", [4, -5])
def test_indices_outside_of_the_table_reach_no_row(index):
    def dense():
        return ops.convert_to_numpy(kc.RowSparse([index, 1], [[1.0], [2.0]], (4, 1)).dense())

    if keras.backend.backend() == "jax":
        np.testing.assert_array_equal(dense()[:, 0], [0, 2, 0, 0])
    else:
        with pytest.raises(Exception, match=r"(?i)index|indices"):
            dense()


def test_errors_of_shapes_and_indices():
    with pytest.raises(ValueError, match=r"are to have the shape \(2, 3\)"):
        kc.RowSparse([0, 1], np.ones((2, 4)), (5, 3))
    with pytest.raises(ValueError, match=r"are to have the shape \(2, 1\)"):
        kc.RowSparse([0, 1], [[1.0]], (4, 1))
    with pytest.raises(ValueError, match="is that of the table, integers"):
        kc.RowSparse([0, 1], [[1.0], [1.0]], (None, 1))
    with pytest.raises(TypeError, match="are integers"):
        kc.RowSparse([0.0, 1.0], np.ones((2, 3)), (5, 3))
