"""`full_batch=True`: a kept gradient is used where it is the right one, and nowhere else.

The loss is one of 1000 and more, so that in float32 it hardly tells one point or batch from
another.
Right is what the same steps give with `full_batch=False`, or from a gradient taken anew.
"""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from keras_cool.training.fingerprint import fingerprint
from support.comparisons import assert_all_close, assert_all_equal

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5], [3.0]])).astype("float32")
OTHER_X = RNG.normal(size=(32, 4)).astype("float32")
ORDER = RNG.permutation(32)


def flat_loss(y, prediction):
    return (y - prediction) ** 2 + 1000


def made(optimizer, dropout=False, **dense):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, activation="tanh", **dense)(inputs)
    if dropout:
        hidden = keras.layers.Dropout(0.5)(hidden)
    model = kc.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(optimizer, loss=flat_loss)
    return model


def solver(full_batch, inner=0.02):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kc.optimizers.RK23(inner, full_batch=full_batch, max_step=0.03)


def take_steps(model, x=X, y=Y, steps=1, **arguments):
    arguments = {"shuffle": False, "batch_size": len(x), **arguments}
    model.fit(x, y, epochs=steps, verbose=0, **arguments)


def evaluations(model):
    return int(model.optimizer.step_logs()["gradient_evaluations"])


def taken_anew(model, step):
    """Whether `step()` takes the first gradient of its step anew."""
    before = evaluations(model)
    step()
    return (evaluations(model) - before) % 3 == 1


def test_the_same_point_and_batch_take_the_kept_gradient():
    """In another order too, as `fit` shuffles it."""
    model = made(solver(True))
    assert taken_anew(model, lambda: take_steps(model))
    assert not taken_anew(model, lambda: take_steps(model, steps=20, shuffle=True))
    assert not taken_anew(model, lambda: take_steps(model, X[ORDER], Y[ORDER]))
    plain = made(solver(False))
    take_steps(plain, steps=22)
    assert_all_close(model.get_weights(), plain.get_weights(), atol=1e-5)


def nudge(model):
    model.set_weights([w * 1.001 for w in model.get_weights()])


CHANGES = {
    "weights": lambda model: (nudge(model), take_steps(model)),
    "one-weight": lambda model: (
        model.layers[-1].bias.assign(model.layers[-1].bias + 1e-3),
        take_steps(model),
    ),
    "data": lambda model: take_steps(model, OTHER_X),
    "one-sample": lambda model: take_steps(model, np.concatenate([X[:-1], OTHER_X[:1]])),
    "signs": lambda model: take_steps(model, -X),
    "labels-of-others": lambda model: take_steps(model, X, Y[ORDER]),
    "sample-weights": lambda model: take_steps(
        model, sample_weight=np.linspace(0.9995, 1.0005, 32)
    ),
    "smaller-batch": lambda model: take_steps(model, X[:16], Y[:16]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_gradient_is_noticed(change):
    model = made(solver(True))
    take_steps(model, steps=3)
    assert taken_anew(model, lambda: CHANGES[change](model))


@pytest.mark.parametrize(
    "setting",
    [{"kernel_constraint": keras.constraints.UnitNorm()}, {"dropout": True}],
    ids=["constraint", "dropout"],
)
def test_where_every_step_has_another_gradient(setting):
    """The constraint moves the point after the step, dropout has new masks."""
    ends = []
    for full_batch in (True, False):
        model = made(solver(full_batch), **setting)
        if full_batch:
            take_steps(model)
            assert taken_anew(model, lambda: take_steps(model))
            take_steps(model, steps=8)
        else:
            take_steps(model, steps=10)
        ends.append(model.get_weights())
    for ours, theirs in zip(*ends):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


class Weighted(keras.losses.Loss):
    """A loss with a weight, an attribute or a variable, too large to show changes."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight

    def call(self, y, prediction):
        return self.weight * (y - prediction) ** 2 + 1e6


class Counting(keras.layers.Layer):
    """Has a state that it reads and changes in every call."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(0.01)
        return x * (1 + self.calls)


class Thaws(keras.callbacks.Callback):
    """Changes a frozen weight now and then."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch % 3 == 2:
            kernel = self.model.layers[1].kernel
            kernel.assign(1.05 * kernel)


DEPENDENCES = {
    "attribute": lambda loss: (None, [kc.callbacks.Schedule((loss, "weight"), lambda e: 1 + e)]),
    "variable": lambda loss: (None, [kc.callbacks.Schedule(loss.weight, lambda e: 1 + e)]),
    "frozen": lambda loss: (keras.layers.Dense(4, trainable=False), [Thaws()]),
    "state": lambda loss: (Counting(), []),
    "spectral": lambda loss: (keras.layers.SpectralNormalization(keras.layers.Dense(4)), []),
}


@pytest.mark.parametrize(
    ("name", "microbatch_size"), [*((name, None) for name in DEPENDENCES), ("state", 8)]
)
def test_what_else_the_loss_depends_on_is_noticed(name, microbatch_size):
    ends = []
    for full_batch in (True, False):
        keras.utils.set_random_seed(0)
        weight = keras.Variable(1.0, trainable=False) if name == "variable" else 1.0
        layer, callbacks = DEPENDENCES[name](loss := Weighted(weight))
        inputs = keras.Input((4,))
        hidden = inputs if layer is None else layer(inputs)
        model = kc.Model(inputs, keras.layers.Dense(1)(hidden))
        model.compile(solver(full_batch), loss=loss, microbatch_size=microbatch_size)
        take_steps(model, steps=7, callbacks=callbacks)
        ends.append(model.get_weights())
    for ours, theirs in zip(*ends):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_kept_gradient_is_saved_with_its_point(tmp_path):
    model = made(solver(True))
    take_steps(model, steps=3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects={"flat_loss": flat_loss}
    )
    assert not taken_anew(loaded, lambda: take_steps(loaded))
    loaded.load_weights(save_weights_of(made(solver(True)), tmp_path))
    assert taken_anew(loaded, lambda: take_steps(loaded))


def save_weights_of(model, folder):
    model.save_weights(folder / "start.weights.h5")
    return folder / "start.weights.h5"


INNER = {
    "momentum": lambda: keras.optimizers.SGD(0.02, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.02),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.02),
    "decay": lambda: keras.optimizers.SGD(0.02, weight_decay=0.1),
    "clipping": lambda: keras.optimizers.SGD(0.02, clipnorm=0.5),
}


@pytest.mark.parametrize("name", INNER)
def test_over_what_ends_at_another_point_it_does_nothing(name):
    """It costs nothing either: no variable, no evaluation; and it says so."""
    with pytest.warns(UserWarning, match="full_batch=True, which has no effect here"):
        method = kc.optimizers.RK23(INNER[name](), full_batch=True, max_step=0.03)
    ends = []
    for optimizer in (method, solver(False, INNER[name]())):
        model = made(optimizer)
        take_steps(model, steps=10)
        ends.append((model.get_weights(), evaluations(model), len(optimizer.variables)))
    assert_all_equal(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


def number(*batch):
    return int(fingerprint(batch))


def test_fingerprints():
    weights = np.ones(32, "float32")
    known = number(X, Y, weights)
    assert known == number(X[ORDER], Y[ORDER], weights)
    others = [
        number(X, Y[ORDER], weights),
        number(-X, Y, weights),
        number(X[:, ::-1], Y, weights),
        number(X, Y, 2 * weights),
        number(X, Y),
        number(X, Y > 0),
        number(X, Y.astype("int64")),
        number(X[:16], Y),  # not as many rows: the nodes of a graph
        number(X[:16], Y[16:]),
        number(np.nextafter(X, 9, dtype="float32"), Y, weights),
    ]
    assert len({known, *others}) == len(others) + 1


class MoreLabels(keras.utils.PyDataset):
    """One batch with two labels for each sample, as the real and made ones of a GAN."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return X, np.repeat(Y, 2, axis=0)


def test_a_batch_with_more_labels_than_samples_in_a_compiled_step():
    model = made(solver(True))
    model.compile(solver(True), loss=lambda y, p: ops.mean(y**2) + ops.mean(p**2))
    model.fit(MoreLabels(), epochs=2, verbose=0)
    assert evaluations(model) == 1 + 3 + 3


def test_fingerprints_of_float64(float64):
    x = X.astype("float64")
    assert number(x) != number(x * (1 + 1e-15))


@pytest.mark.backend("tensorflow")
def test_fingerprints_of_unknown_shapes():
    import tensorflow as tf

    shapes = [tf.TensorSpec((None, None)), tf.TensorSpec((None, 1))]
    compiled = tf.function(lambda x, y: fingerprint((x, y)), input_signature=shapes)
    for rows in (32, 7):
        assert int(compiled(X, Y[:rows])) == number(X, Y[:rows])


@pytest.mark.parametrize("flow_time", [None, 0.05])
def test_a_layer_frozen_later(flow_time):
    model = made(kc.optimizers.RK45(0.02, full_batch=True, flow_time=flow_time))
    take_steps(model, steps=2)
    model.layers[1].trainable = False
    model.compile(model.optimizer, loss=flat_loss)
    frozen, plain = model.layers[1].get_weights(), made(kc.optimizers.RK45(0.02))
    plain.set_weights(model.get_weights())
    plain.layers[1].trainable = False
    plain.compile(kc.optimizers.RK45(float(model.optimizer.learning_rate)), loss=flat_loss)
    take_steps(model)
    assert_all_equal(model.layers[1].get_weights(), frozen)
    if flow_time is None:
        take_steps(plain)
        assert_all_close(model.get_weights(), plain.get_weights(), atol=1e-5)
