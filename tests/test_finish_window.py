"""`FinishWindow`: the update of a window that is not full at the end of an epoch."""

import keras
import pytest

import keras_cool as kc
from keras_cool.callbacks import FinishWindow
from keras_cool.optimizers import Accumulate
from support.comparisons import assert_same_weights
from support.small_net import X, Y, compiled_net, updates
from support.training import fit


def test_a_last_window_without_the_mixin():
    model = compiled_net(keras.Model, Accumulate("adam", 4))
    fit(model, X[:80], Y[:80], epochs=2, callbacks=[FinishWindow()])
    expected = compiled_net(keras.Model, "adam")
    fit(expected, X[:80], Y[:80], batch_size=32, epochs=2)
    assert_same_weights(model, expected)


def test_it_may_be_given_with_the_mixin_or_in_a_callback_list():
    for callbacks in (
        [FinishWindow()],
        keras.callbacks.CallbackList([], add_history=True),
    ):
        model = compiled_net(kc.Model, Accumulate("adam", 4))
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.set_model(model)
        model.fit(X[:80], Y[:80], batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        assert updates(model) == 3


def test_another_optimizer_is_told_to_leave_it_out():
    model = compiled_net(keras.Model, "adam")
    with pytest.raises(ValueError, match="leave the callback out"):
        fit(model, X, Y, callbacks=[FinishWindow()])
