"""`OptimisticGradient` against its formula in NumPy and against optax."""

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.games import GAME, compiled_game, train_game
from support.gradient_flows import PROBLEMS, compiled, train, weights_of

OptimisticGradient = kc.optimizers.OptimisticGradient
NET = PROBLEMS["net"]
RATE, STEPS = 0.2, 20


def numpy_optimistic(field, p, rate=RATE, steps=STEPS):
    last = field(p)
    for _ in range(steps):
        present = field(p)
        p, last = p - rate * (2 * present - last), present
    return p


def test_the_formula_on_a_game_in_float64(float64):
    model = compiled_game(OptimisticGradient(RATE))
    logs = train_game(model, STEPS)
    expected = numpy_optimistic(GAME.field, GAME.start)
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-10)
    assert logs["gradient_evaluations"] == [STEPS]


def test_the_formula_on_a_net():
    model = compiled(NET, OptimisticGradient(RATE))
    train(model, NET, STEPS)
    expected = numpy_optimistic(NET.gradient, NET.start)
    assert np.linalg.norm(weights_of(model) - expected) < 1e-5 * np.linalg.norm(expected)


def test_it_converges_where_gradient_descent_leaves():
    model = compiled_game(OptimisticGradient(RATE))
    train_game(model, 300)
    assert np.linalg.norm(weights_of(model) - GAME.solution) < 0.05


def test_adam_is_given_the_extrapolated_gradient():
    adam = {"learning_rate": 0.1, "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-8}
    model = compiled_game(OptimisticGradient(keras.optimizers.Adam(**adam)))
    train_game(model, 4)
    p, m, v, last = GAME.start, 0.0, 0.0, GAME.field(GAME.start)
    for t in range(1, 5):
        present = GAME.field(p)
        g, last = 2 * present - last, present
        m, v = 0.5 * m + 0.5 * g, 0.9 * v + 0.1 * g**2
        p = p - 0.1 * m / (1 - 0.5**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
    np.testing.assert_allclose(weights_of(model), p, rtol=1e-4)


def test_after_a_skipped_step_it_begins_anew():
    model = compiled_game(OptimisticGradient(RATE))
    bad = np.full((1, 1), np.nan, "float32")
    train_game(model, 3)
    model.fit(bad, bad, verbose=0)
    train_game(model, 3)
    expected = numpy_optimistic(
        GAME.field, numpy_optimistic(GAME.field, GAME.start, steps=3), steps=3
    )
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-5)
    assert int(model.step_counts()["skipped_steps"]) == 1


@pytest.mark.backend("jax")
def test_equals_optax():
    import jax.numpy as jnp
    import optax

    optimizer = optax.optimistic_gradient_descent(RATE)
    p = jnp.asarray(NET.start, "float32")
    state = optimizer.init(p)
    for _ in range(STEPS):
        gradient = jnp.asarray(NET.gradient(np.float64(p)), "float32")
        updates, state = optimizer.update(gradient, state, p)
        p = optax.apply_updates(p, updates)
    model = compiled(NET, OptimisticGradient(RATE))
    train(model, NET, STEPS)
    np.testing.assert_allclose(weights_of(model), p, rtol=1e-4, atol=1e-6)
