"""The optimizers of a model, wherever it keeps them."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from keras_cool.callbacks.shared.training_state import variables_of
from keras_cool.optimizer_roles import optimizers_of
from support.comparisons import assert_all_equal

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = X.sum(1, keepdims=True)


def net():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])


PLACES = {
    "attribute": lambda model, optimizer: setattr(model, "second", optimizer),
    "list": lambda model, optimizer: setattr(model, "several", [optimizer]),
    "tuple": lambda model, optimizer: setattr(model, "several", (optimizer,)),
    "dictionary": lambda model, optimizer: setattr(model, "several", {"critic": optimizer}),
    "nest": lambda model, optimizer: setattr(model, "several", {"all": [(optimizer,)]}),
    "layer": lambda model, optimizer: setattr(model.critic.layers[-1], "second", optimizer),
    "submodel": lambda model, optimizer: setattr(model.critic, "second", optimizer),
    "compiled submodel": lambda model, optimizer: model.critic.compile(optimizer),
}


class Two(kc.Model):
    """Two nets; the second one is trained by an optimizer that the model keeps somewhere."""

    def __init__(self, keep):
        super().__init__()
        self.actor, self.critic = net(), net()
        optimizer = keras.optimizers.Adam(0.1)
        optimizer.build(self.critic.trainable_variables)
        keep(self, optimizer)
        self.built = True

    def call(self, x):
        return self.actor(x)

    def multi_gradient_step(self, x, y, sample_weight):
        for part, optimizer in (
            (self.actor, self.optimizer),
            (self.critic, optimizers_of(self)[1]),
        ):
            variables = part.trainable_variables
            loss, gradients = self.value_and_grad(
                lambda part=part: ops.mean(ops.square(part(x) - y)), variables
            )
            self.apply_gradients(gradients, variables, optimizer=optimizer)
        return {"loss": loss}


@pytest.mark.parametrize("keep", PLACES.values(), ids=list(PLACES))
def test_an_optimizer_is_found_trained_with_and_put_back(keep):
    model = Two(keep)
    model.compile(keras.optimizers.Adam(0.1))
    own, second = optimizers_of(model)
    assert own is model.optimizer
    assert second is not own
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_all_equal(model.actor.get_weights(), model.critic.get_weights())
    assert int(second.iterations) == 8
    held = {id(v) for v in variables_of(model)}
    assert held >= {id(v) for v in second.variables}


def test_an_optimizer_and_one_around_it_are_both_found():
    """And their variables are part of the state once."""
    model = Two(PLACES["attribute"])
    model.scaled = keras.optimizers.LossScaleOptimizer(model.second)
    model.compile(keras.optimizers.SGD(0.1))
    assert optimizers_of(model) == [model.optimizer, model.second, model.scaled]
    model.fit(X, Y, batch_size=8, verbose=0)
    assert int(model.second.iterations) == 4


def test_a_model_that_is_not_compiled_has_none():
    assert optimizers_of(net()) == []
