"""The flow that an inner optimizer follows, against the steps of Keras' own optimizers."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from keras_cool.optimizers.preconditioner import preconditioner
from support.gradient_flows import POISSON, compiled, set_weights, train, weights_of

# Without momentum, so that a step is the present gradient, preconditioned.
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adam": lambda: keras.optimizers.Adam(0.1, beta_1=0.0),
    "amsgrad": lambda: keras.optimizers.Adam(0.1, beta_1=0.0, beta_2=0.5, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.1, beta_1=0.0, weight_decay=0.0),
    "nadam": lambda: keras.optimizers.Nadam(0.1, beta_1=0.0),
    "lamb": lambda: keras.optimizers.Lamb(0.1, beta_1=0.0),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.1),
    "rmsprop-centered": lambda: keras.optimizers.RMSprop(0.1, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adadelta": lambda: keras.optimizers.Adadelta(10.0),
    "adamax": lambda: keras.optimizers.Adamax(0.1, beta_1=0.0),
}


class Predict(kc.optimizers.MultiGradientOptimizer):
    """Hands on the gradient, and notes where the flow says that the step is going to end."""

    def build(self, variables):
        super().build(variables)
        self.predicted = [self.add_variable_from_reference(v, "predicted") for v in variables]

    def estimate_gradient(self, evaluate, point):
        _, gradients = evaluate(point)
        diagonal = preconditioner(self.inner_optimizer, evaluate.variables, gradients)
        rate = ops.convert_to_tensor(self.inner_optimizer.learning_rate)
        for i, (p, g) in enumerate(zip(point, gradients)):
            self.predicted[i].assign(p - rate * (g if diagonal is None else diagonal[i] * g))
        return gradients


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_euler_step_along_the_flow_is_the_step_of_the_optimizer(name):
    """At the first step, where the running means begin at zero, and at the later ones."""
    method = Predict(OPTIMIZERS[name]())
    ours, keras_own = (compiled(POISSON, o) for o in (method, OPTIMIZERS[name]()))
    for _ in range(3):
        before = weights_of(ours)
        train(ours, POISSON, 1)
        train(keras_own, POISSON, 1)
        np.testing.assert_allclose(weights_of(ours), weights_of(keras_own), rtol=1e-5)
        step = np.concatenate([v.numpy().ravel() for v in method.predicted]) - before
        np.testing.assert_allclose(step, weights_of(keras_own) - before, rtol=1e-3, atol=1e-6)


def test_momentum_and_clipping_act_on_the_estimate():
    inner = keras.optimizers.SGD(0.1, momentum=0.9, clipvalue=0.7)
    model = compiled(POISSON, kc.optimizers.Heun(inner))
    set_weights(model, POISSON.start + 1)
    train(model, POISSON, 3)
    p, velocity = POISSON.start + 1, 0.0
    for _ in range(3):
        first = POISSON.gradient(p)
        mean = (first + POISSON.gradient(p - 0.1 * first)) / 2
        velocity = 0.9 * velocity - 0.1 * np.clip(mean, -0.7, 0.7)
        p = p + velocity
    np.testing.assert_allclose(weights_of(model), p, rtol=1e-5)


def test_step_size_control_over_adam_sets_its_learning_rate():
    method = kc.optimizers.RK23("adam", rtol=1e-2, atol=1e-3)
    model = compiled(POISSON, method)
    logs = train(model, POISSON, 30)
    np.testing.assert_allclose(float(method.inner_optimizer.learning_rate), logs["step_size"][-1])
    assert logs["loss"][-1] < logs["loss"][0]
    assert logs["skipped_steps"][-1] == 0


@pytest.mark.parametrize("name", ["adam", "amsgrad", "nadam", "rmsprop", "adamax"])
def test_an_entry_is_bounded_where_the_gradient_is_nearly_zero(name):
    """By that of a tenth of the root mean square in the variable; in one without any gradient by
    that of a thousandth of all."""
    optimizer = OPTIMIZERS[name]()
    variables = [keras.Variable(np.zeros(4, "float32")) for _ in range(2)]
    optimizer.build(variables)
    alive, dead = np.array([3.0, -4.0, 0.0, 1e-9], "float32"), np.zeros(4, "float32")
    gradients = [ops.convert_to_tensor(g) for g in (alive, dead)]
    of_alive, of_dead = (
        ops.convert_to_numpy(d) for d in preconditioner(optimizer, variables, gradients)
    )
    unit = of_alive[0] * 3.0  # 1, but for RMSprop, whose running mean begins at zero
    np.testing.assert_allclose(of_alive[:2], unit / np.abs(alive[:2]), rtol=5e-3)
    np.testing.assert_allclose(of_alive[2:], unit * 10 / 2.5, rtol=5e-3)
    np.testing.assert_allclose(of_dead, unit * 1000 / (2.5 / np.sqrt(2)), rtol=5e-3)


def relu_net(optimizer):
    """Inputs as large as pixels: at first most units get no gradient, and many wake later."""
    rng = np.random.default_rng(1)
    x = 255 * np.maximum(rng.normal(size=(64, 32)), 0).astype("float32")
    y = rng.normal(size=(64, 1)).astype("float32")
    inputs = hidden = keras.Input((32,))
    for _ in range(2):
        hidden = keras.layers.Dense(32, activation="relu")(hidden)
    model = kc.Model(inputs, keras.layers.Dense(1)(hidden))
    rng = np.random.default_rng(2)
    model.set_weights([rng.normal(size=w.shape) * 0.2 * (w.ndim == 2) for w in model.get_weights()])
    model.compile(optimizer, loss="mse")
    return model.fit(x, y, batch_size=64, epochs=41, shuffle=False, verbose=0).history["loss"]


METHODS = [kc.optimizers.RK45, kc.optimizers.RK23, kc.optimizers.Heun]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize("inner", ["adam", "rmsprop", "adagrad"])
def test_units_that_wake_at_a_later_stage_do_not_stop_the_method(method, inner):
    """Without a bound the step sizes fall to 1e-6, and the loss stays near its start."""
    config = {"learning_rate": {"adam": 0.001, "rmsprop": 0.001, "adagrad": 0.05}[inner]}
    optimizer = keras.optimizers.get({"class_name": inner, "config": config})
    losses = relu_net(method(optimizer))
    assert losses[40] < losses[0] / 15
