"""`trainable` changed between and within loops: weights stay with their layers, errors are real.

Two layers of one shape, of which one is frozen: what knows them by their places would swap them.
"""

import contextlib

import keras
import numpy as np
import pytest

import keras_cool as kc

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.tanh(X)


def two_layers(model_class=kc.Model, seed=0):
    keras.utils.set_random_seed(seed)
    first, second = (keras.layers.Dense(4, use_bias=False) for _ in range(2))
    inputs = keras.Input((4,))
    model = model_class(inputs, second(first(inputs)))
    second.trainable = False
    return model, first, second


def heun():
    return kc.optimizers.Heun(0.05)


WAYS = {
    "Heun": (kc.Model, heun, {}),
    "plain": (kc.Model, lambda: keras.optimizers.SGD(0.05), {}),
    "micro-batches": (kc.Model, lambda: keras.optimizers.SGD(0.05), {"microbatch_size": 2}),
    "Accumulate": (kc.Model, lambda: kc.optimizers.Accumulate(0.05, 2), {}),
    "injected": (lambda *net: kc.inject(keras.Model(*net)), heun, {}),
}


@pytest.fixture(params=WAYS)
def trained(request):
    """A model that has been trained, evaluated and used, and whose layers then change roles."""
    model_class, optimizer, options = WAYS[request.param]
    model, first, second = two_layers(model_class)
    model.compile(optimizer(), loss="mse", **options)
    model.fit(X, Y, verbose=0)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    first.trainable, second.trainable = False, True
    return model, first, second


def fail(model, error):
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise error

    model.fit(X, Y, batch_size=4, verbose=0, callbacks=[Fail()])


@pytest.mark.parametrize("loop", ["fit", "evaluate", "train_on_batch"])
def test_an_error_in_a_step_leaves_the_weights_and_comes_through(trained, loop):
    model, first, second = trained
    before = [first.get_weights()[0], second.get_weights()[0]]
    arguments = {} if loop == "train_on_batch" else {"verbose": 0}
    with pytest.raises(Exception, match=r"(?i)shape|incompatible|built on other"):
        getattr(model, loop)(X[:, :3], Y, **arguments)
    for layer, weights in zip((first, second), before):
        np.testing.assert_array_equal(layer.get_weights()[0], weights)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_after_a_step_of_a_new_compile(trained, error):
    """The layer that is frozen now keeps its weights; no value is lost or swapped."""
    model, first, second = trained
    model.compile(keras.optimizers.SGD(0.05), loss="mse")
    frozen, free = first.get_weights()[0], second.get_weights()[0]
    with pytest.raises(error):
        fail(model, error)
    np.testing.assert_array_equal(first.get_weights()[0], frozen)
    assert 0 < np.abs(second.get_weights()[0] - free).max() < 0.1


def test_predictions_and_losses_are_those_of_the_layers(trained):
    model, first, second = trained
    right = X @ first.get_weights()[0] @ second.get_weights()[0]
    np.testing.assert_allclose(model.predict(X, verbose=0), right, rtol=1e-4, atol=1e-5)
    loss = model.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(loss, np.mean((right - Y) ** 2), rtol=1e-4)


@pytest.mark.parametrize("when", ["on_train_batch_begin", "on_train_batch_end", "on_epoch_begin"])
def test_a_callback_that_changes_it_within_a_loop(when):
    """It takes effect when Keras says so on that backend; the weights do not change places."""
    model, first, second = two_layers()
    model.compile(keras.optimizers.SGD(0.01), loss="mse")
    before = [first.get_weights()[0], second.get_weights()[0]]

    class Swap(keras.callbacks.Callback):
        pass

    def swap(self, index, logs=None):
        first.trainable, second.trainable = second.trainable, first.trainable

    setattr(Swap, when, swap)
    # PyTorch sees the change at once, and Keras' optimizers refuse variables that are new to them.
    with contextlib.suppress(ValueError) if BACKEND == "torch" else contextlib.nullcontext():
        model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[Swap()])
    for layer, weights in zip((first, second), before):
        assert np.abs(layer.get_weights()[0] - weights).max() < 0.1


WRAPPERS = {
    "Heun": kc.optimizers.Heun,
    "RK23": kc.optimizers.RK23,
    "Accumulate": lambda inner: kc.optimizers.Accumulate(inner, 2),
}


@pytest.mark.parametrize("again", [False, True], ids=["not compiled again", "compiled again"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=list(WRAPPERS))
def test_a_layer_unfrozen_with_the_same_optimizer(wrap, again):
    """Keras' optimizers refuse it; a step that is compiled already may go on without the layer."""
    model, _first, second = two_layers()
    optimizer = wrap(keras.optimizers.Adam(0.01))
    model.compile(optimizer, loss="mse")
    model.fit(X, Y, verbose=0)
    second.trainable = True
    if again:
        model.compile(optimizer, loss="mse")
    refused = pytest.raises(ValueError, match=r"(Heun|RK23|Accumulate) was built on.*Make a new")
    with contextlib.nullcontext() if BACKEND == "tensorflow" and not again else refused:
        model.fit(X, Y, verbose=0)
    model.compile(wrap(keras.optimizers.Adam(0.01)), loss="mse")
    before = second.get_weights()[0]
    model.fit(X, Y, verbose=0, batch_size=4)
    assert np.abs(second.get_weights()[0] - before).max() > 0


def test_a_layer_unfrozen_with_the_same_optimizer_and_micro_batches():
    model, _first, second = two_layers()
    model.compile(keras.optimizers.Adam(0.01), loss="mse", microbatch_size=4)
    model.fit(X, Y, verbose=0)
    second.trainable = True
    model.compile(model.optimizer, loss="mse", microbatch_size=4)
    with pytest.raises(ValueError, match=r"Adam was built on other.*Make a new Adam"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=list(WRAPPERS))
def test_one_inner_optimizer_for_two_models(wrap):
    adam = keras.optimizers.Adam(0.01)
    model, *_ = two_layers()
    model.compile(wrap(adam), loss="mse")
    model.fit(X, Y, verbose=0)
    model, *_ = two_layers(seed=1)
    model.compile(wrap(adam), loss="mse")
    with pytest.raises(ValueError, match=r"Adam was built on other variables.*Make a new Adam"):
        model.fit(X, Y, verbose=0)


def test_an_optimizer_built_on_all_variables_trains_some_and_then_others():
    model, first, second = two_layers()
    optimizer = kc.optimizers.Heun("adam")
    optimizer.build([*first.weights, *second.weights])
    for free, frozen in ((first, second), (second, first)):
        free.trainable, frozen.trainable = True, False
        model.compile(optimizer, loss="mse")
        before = [layer.get_weights()[0] for layer in (free, frozen)]
        model.fit(X, Y, verbose=0)
        assert np.abs(free.get_weights()[0] - before[0]).max() > 0
        np.testing.assert_array_equal(frozen.get_weights()[0], before[1])
