"""`Extragradient` against its formulas in NumPy, on games whose solution is known."""

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.games import GAME, compiled_game, train_game
from support.gradient_flows import PROBLEMS, compiled, train, weights_of

Extragradient = kc.optimizers.Extragradient
NET = PROBLEMS["net"]
RATE, STEPS = 0.2, 20


def numpy_extragradient(field, p, rates, steps=STEPS):
    for _ in range(steps):
        p = p - rates * field(p - rates * field(p))
    return p


def test_the_formula_on_a_game_in_float64(float64):
    model = compiled_game(Extragradient(RATE))
    logs = train_game(model, STEPS)
    expected = numpy_extragradient(GAME.field, GAME.start, RATE)
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-10)
    assert logs["gradient_evaluations"] == [2 * STEPS]


def test_the_formula_on_a_net():
    model = compiled(NET, Extragradient(RATE))
    train(model, NET, STEPS)
    expected = numpy_extragradient(NET.gradient, NET.start, RATE)
    assert np.linalg.norm(weights_of(model) - expected) < 1e-5 * np.linalg.norm(expected)


def test_it_converges_where_gradient_descent_leaves():
    def distance(p):
        return np.linalg.norm(p - GAME.solution) / np.linalg.norm(GAME.start - GAME.solution)

    model = compiled_game(Extragradient(RATE))
    train_game(model, 200)
    assert distance(weights_of(model)) < 0.1
    p = GAME.start
    for _ in range(200):
        p = p - RATE * GAME.field(p)
    assert distance(p) > 10


def test_over_adam_the_extrapolation_is_a_step_of_it():
    rate = 0.05
    model = compiled_game(Extragradient(keras.optimizers.Adam(rate, beta_1=0.0, epsilon=1e-12)))
    train_game(model, 1)
    ahead = GAME.start - rate * np.sign(GAME.field(GAME.start))  # Adam's first step
    second = GAME.field(ahead)
    expected = GAME.start - rate * np.sign(second)
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-5)


@pytest.mark.multi_optimizer
@pytest.mark.parametrize("around", [lambda o: o, kc.optimizers.Lookahead])
def test_each_player_has_an_optimizer_of_its_own(around, float64):
    rates = {"x": 0.1, "y": 0.3}
    players = keras.optimizers.OptimizerMap(keras.optimizers.SGD(1.0))
    for name, rate in rates.items():
        players[f".*{name}"] = keras.optimizers.SGD(rate)
    several = around(keras.optimizers.MultiOptimizer(players))
    model = compiled_game(Extragradient(several))
    train_game(model, 4)
    each = np.concatenate([np.full(2, rates["x"]), np.full(2, rates["y"])])
    expected = numpy_extragradient(GAME.field, GAME.start, each, 4)
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-10)


def test_it_saves_as_it_is():
    optimizer = Extragradient(keras.optimizers.Adam(0.1, beta_1=0.0))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert copy.get_config() == optimizer.get_config()
