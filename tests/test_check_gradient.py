"""`closed_form_gradient` in place of automatic differentiation, and `check_gradient`."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import assert_same_weights
from support.embeddings import MODELS, WEIGHTS, Factorisation, SkipGram, make

KINDS = pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)


def compiled(kind, optimizer="sgd", base=kc.Model, attributes=None, **options):
    model = make(kind, base, **(attributes or {}))
    model.compile(optimizer, loss=kind.loss, **options)
    return model


def changed(function):
    """Attributes of a model whose gradients in closed form go through a function."""

    def closed_form_gradient(self, x, y, sample_weight):
        loss, gradients = super(type(self), self).closed_form_gradient(x, y, sample_weight)
        return function(self, loss, gradients)

    return {"closed_form_gradient": closed_form_gradient}


AUTODIFF = {"closed_form_gradient": None}


@KINDS
@pytest.mark.parametrize("weighted", [False, True])
def test_the_right_gradient_agrees(kind, weighted):
    x, y = kind.data()
    model = compiled(kind)
    batch = (x, y, WEIGHTS) if weighted else (x, y)
    before = model.get_weights()
    assert kc.check_gradient(model, batch) < 1e-6
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_agrees_in_float64(float64):
    x, y = Factorisation.data()
    assert kc.check_gradient(compiled(Factorisation), (x, y, WEIGHTS)) < 1e-14


def test_a_wrong_entry_is_named():
    def wrong(self, loss, gradients):
        spoilt = np.zeros(gradients[1].shape, "float32")
        spoilt[7, 2] = 1.0
        return loss, [gradients[0], gradients[1] + spoilt]

    with pytest.raises(ValueError, match=r"second.embeddings at \(7, 2\): .* in closed form") as e:
        kc.check_gradient(compiled(SkipGram, attributes=changed(wrong)), SkipGram.data())
    assert "first" not in str(e.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda self, loss, gradients: (loss, [-g for g in gradients]),
        lambda self, loss, gradients: (2 * loss, gradients),
        lambda self, loss, gradients: (loss, [gradients[0], None]),
        lambda self, loss, gradients: (loss, [gradients[0] * float("nan"), gradients[1]]),
    ],
    ids=["sign", "loss", "missing", "nan"],
)
def test_a_wrong_gradient_is_found(wrong):
    with pytest.raises(ValueError, match="differs from automatic differentiation"):
        kc.check_gradient(compiled(SkipGram, attributes=changed(wrong)), SkipGram.data())


def test_ignored_sample_weights_are_found():
    def ignoring(self, x, y, sample_weight):
        return SkipGram.closed_form_gradient(self, x, y, None)

    model = compiled(SkipGram, attributes={"closed_form_gradient": ignoring})
    x, y = SkipGram.data()
    kc.check_gradient(model, (x, y))
    with pytest.raises(ValueError, match="differs"):
        kc.check_gradient(model, (x, y, WEIGHTS))


def test_micro_batches_are_compared_too():
    """A sum over the samples is right for the mean of a batch of one size, and for no other."""

    def sum_over_44(self, x, y, sample_weight):
        loss, gradients = SkipGram.closed_form_gradient(self, x, y, sample_weight)
        factor = ops.cast(ops.size(y), loss.dtype) / y_size
        return loss * factor, [g * factor for g in gradients]

    x, y = SkipGram.data()
    y_size = y.size
    attributes = {"closed_form_gradient": sum_over_44}
    assert kc.check_gradient(compiled(SkipGram, microbatch_size=12), (x, y)) < 1e-6
    assert kc.check_gradient(compiled(SkipGram, attributes=attributes), (x, y)) < 1e-6
    with pytest.raises(ValueError, match="differs"):
        kc.check_gradient(compiled(SkipGram, attributes=attributes, microbatch_size=12), (x, y))


def momentum():
    """Linear in the gradient: TensorFlow's own Adam squares repeated rows one by one."""
    return keras.optimizers.SGD(0.5, momentum=0.9)


WAYS = {
    "sgd": ({"optimizer": lambda: keras.optimizers.SGD(0.5)}, {}),
    "heun over adam": ({"optimizer": lambda: kc.optimizers.Heun("adam")}, {}),
    "micro-batches": ({"optimizer": lambda: "adam", "microbatch_size": 12}, {}),
    "accumulate": ({"optimizer": lambda: kc.optimizers.Accumulate(momentum(), 2)}, {}),
    "eager": ({"optimizer": momentum, "run_eagerly": True}, {}),
    "frozen": ({"optimizer": momentum}, {"trainable": False}),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("way", WAYS)
def test_training_is_that_of_automatic_differentiation(way):
    """Uneven last batches, weights, two calls of `fit`; a class without the method is the
    reference."""
    options, changes = WAYS[way]

    def only_trainable(self, loss, gradients):
        pairs = zip(gradients, [self.first, self.second], strict=True)
        return loss, [g for g, layer in pairs if layer.trainable]

    x, y = SkipGram.data()
    models = []
    for attributes in (changed(only_trainable), AUTODIFF):
        arguments = {**options, "optimizer": options["optimizer"]()}
        model = compiled(SkipGram, attributes=attributes, weighted_metrics=["mae"], **arguments)
        model.first.trainable = changes.get("trainable", True)
        for _ in range(2):
            logs = model.fit(x, y, 16, verbose=0, sample_weight=WEIGHTS, shuffle=False).history
        models.append((model, logs))
    (closed, logs), (reference, expected) = models
    assert_same_weights(closed, reference, 1e-5)
    for name, values in expected.items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-4, err_msg=name)


def test_line_searches_use_it(float64):
    models = [
        compiled(Factorisation, kc.optimizers.LBFGS(max_iterations=3), attributes=attributes)
        for attributes in ({}, AUTODIFF)
    ]
    for model in models:
        model.fit(*Factorisation.data(), batch_size=44, epochs=2, verbose=0)
    assert_same_weights(*models, 1e-7)


def test_it_is_what_trains():
    """A gradient three times as large makes three times the step."""
    steps = []
    for factor in (1, 3):

        def scaled(self, loss, gradients, factor=factor):
            return loss, [factor * g for g in gradients]

        model = compiled(SkipGram, keras.optimizers.SGD(0.5), attributes=changed(scaled))
        before = np.concatenate([w.ravel() for w in model.get_weights()])
        model.fit(*SkipGram.data(), batch_size=44, verbose=0)
        steps.append(np.concatenate([w.ravel() for w in model.get_weights()]) - before)
    np.testing.assert_allclose(steps[1], 3 * steps[0], rtol=1e-3, atol=1e-7)


def test_an_injected_model_and_a_loss_that_is_not_compiled():
    model = kc.inject(make(Factorisation, keras.Model))
    model.compile(keras.optimizers.SGD(0.5))
    expected = compiled(Factorisation, keras.optimizers.SGD(0.5), attributes=AUTODIFF)
    data = Factorisation.data()
    for trained in (model, expected):
        trained.fit(*data, batch_size=44, epochs=3, verbose=0)
    assert_same_weights(model, expected, 1e-6)


@pytest.mark.parametrize("policy", ["float64", "mixed_float16"])
def test_dtypes(policy, request):
    if policy == "float64":
        request.getfixturevalue("float64")
    else:
        keras.config.set_dtype_policy(policy)
        request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    kind = Factorisation if policy == "float64" else SkipGram
    models = [compiled(kind, attributes=a) for a in ({}, AUTODIFF)]
    for model in models:
        model.fit(*kind.data(), batch_size=16, verbose=0, shuffle=False)
    assert_same_weights(*models, 1e-14 if policy == "float64" else 1e-3)


def regularised():
    model = compiled(SkipGram)
    model.first.embeddings.regularizer = keras.regularizers.L2(0.1)
    return model


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (regularised, "has losses besides"),
        (lambda: compiled(SkipGram, attributes=AUTODIFF), "no such method"),
        (lambda: compiled(SkipGram, base=keras.Model), "not the mixin"),
        (lambda: compiled(SkipGram, attributes=changed(lambda m, n, g: g)), "returns a pair"),
        (lambda: compiled(SkipGram, attributes=changed(lambda m, n, g: (n, g[:1]))), "1 gradients"),
        (
            lambda: compiled(SkipGram, attributes=changed(lambda m, n, g: (n, [g[0][:3], g[1]]))),
            r"has the shape \(3, 6\)",
        ),
        (
            lambda: compiled(SkipGram, attributes=changed(lambda m, n, g: (g[0], g))),
            "has to be a scalar",
        ),
    ],
)
def test_errors(make_model, message):
    with pytest.raises(ValueError, match=message):
        kc.check_gradient(make_model(), SkipGram.data())
