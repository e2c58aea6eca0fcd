"""`Lookahead` against its formula in NumPy, against optax and against pytorch_optimizer."""

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal, assert_same_state
from support.gradient_flows import PROBLEMS, SumLoss, compiled, set_weights, train, weights_of
from support.training import fit
from support.ways_to_train import MODELS, WAYS

Lookahead = kc.optimizers.Lookahead
NET = PROBLEMS["net"]
RATE, STEPS = 0.1, 20


def numpy_lookahead(gradient, p, steps=STEPS, k=5, r=0.5):
    slow = p
    for t in range(1, steps + 1):
        p = p - RATE * gradient(p)
        if t % k == 0:
            p = slow = slow + r * (p - slow)
    return p, slow


@pytest.mark.parametrize(("k", "r"), [(5, 0.5), (3, 0.8), (1, 0.3), (7, 1.0)])
def test_the_formula_in_float64(k, r, float64):
    model = compiled(NET, Lookahead(RATE, steps=k, rate=r))
    train(model, NET, STEPS)
    expected, slow = numpy_lookahead(NET.gradient, NET.start, k=k, r=r)
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-10)
    ours = np.concatenate([np.ravel(v.numpy()) for v in model.optimizer.slow_weights])
    np.testing.assert_allclose(ours, slow, rtol=1e-10)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", MODELS)
def test_it_is_the_same_with_and_without_the_mixin(cls, way):
    with_mixin = NET.model()
    model = MODELS[cls](with_mixin.inputs, with_mixin.outputs)
    set_weights(model, NET.start)
    model.compile(Lookahead(RATE, steps=3), loss=SumLoss(NET.loss), **WAYS[way])
    x, y = (np.tile(a, (STEPS, 1)) for a in (NET.x, NET.y))
    fit(model, x, y, batch_size=len(NET.x))
    expected, _ = numpy_lookahead(NET.gradient, NET.start, k=3)
    assert np.linalg.norm(weights_of(model) - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.backend("jax")
def test_equals_optax():
    import jax.numpy as jnp
    import optax

    optimizer = optax.lookahead(optax.sgd(RATE), sync_period=5, slow_step_size=0.5)
    p = optax.LookaheadParams.init_synced(jnp.asarray(NET.start, "float32"))
    state = optimizer.init(p)
    for _ in range(STEPS - 2):  # ends between two meetings of the weights
        gradient = jnp.asarray(NET.gradient(np.float64(p.fast)), "float32")
        updates, state = optimizer.update(gradient, state, p)
        p = optax.apply_updates(p, updates)
    model = compiled(NET, Lookahead(RATE))
    train(model, NET, STEPS - 2)
    np.testing.assert_allclose(weights_of(model), p.fast, rtol=1e-4, atol=1e-6)


@pytest.mark.backend("torch")
def test_equals_pytorch_optimizer():
    import torch
    from pytorch_optimizer import Lookahead as Peer

    p = torch.nn.Parameter(torch.tensor(NET.start))
    optimizer = Peer(torch.optim.Adam([p], lr=0.01), k=5, alpha=0.5)
    for _ in range(STEPS):
        p.grad = torch.tensor(NET.gradient(p.detach().numpy()))
        optimizer.step()
    adam = keras.optimizers.Adam(0.01, epsilon=1e-8)
    model = compiled(NET, Lookahead(adam))
    train(model, NET, STEPS)
    np.testing.assert_allclose(weights_of(model), p.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_weights_that_were_set_are_where_the_slow_ones_start():
    model = compiled(NET, Lookahead(RATE, steps=5))
    train(model, NET, 10)
    set_weights(model, NET.start)
    train(model, NET, 10)
    expected, _ = numpy_lookahead(NET.gradient, NET.start, 10)
    assert np.linalg.norm(weights_of(model) - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("cls", MODELS)
def test_it_goes_on_to_the_bit_between_two_meetings(cls, tmp_path):
    def net():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        model = MODELS[cls](inputs, keras.layers.Dense(1)(inputs))
        model.compile(Lookahead("adam", steps=4), loss="mse")
        return model

    model = net()
    fit(model, NET.x, NET.y, batch_size=2)  # 6 steps
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for m in (model, loaded):
        fit(m, NET.x, NET.y, batch_size=2)
    assert_same_state(loaded, model)


def test_a_constraint_holds_for_the_slow_weights():
    norm = keras.constraints.UnitNorm(axis=0)
    dense = keras.layers.Dense(2, kernel_constraint=norm, use_bias=False)
    model = keras.Model(inputs := keras.Input((3,)), dense(inputs))
    model.compile(Lookahead(0.5, steps=2), loss="mse")
    fit(model, NET.x, np.repeat(NET.y, 2, axis=1), batch_size=6)
    np.testing.assert_allclose(np.linalg.norm(model.get_weights()[0], axis=0), 1, rtol=1e-5)


def test_inside_accumulate_a_window_is_a_step():
    whole, windows = (
        compiled(NET, o)
        for o in (
            Lookahead(RATE, steps=3),
            kc.optimizers.Accumulate(Lookahead(RATE, steps=3), 4),
        )
    )
    fit(whole, NET.x, NET.y, batch_size=12, epochs=7)
    fit(windows, NET.x, NET.y, batch_size=3, epochs=7)
    assert_all_close(windows.get_weights(), whole.get_weights(), rtol=1e-5)


def test_inside_several_gradients():
    model = compiled(NET, kc.optimizers.Heun(Lookahead(RATE, steps=4)))
    train(model, NET, STEPS)
    expected, _ = numpy_lookahead(
        lambda p: (NET.gradient(p) + NET.gradient(p - RATE * NET.gradient(p))) / 2, NET.start, k=4
    )
    assert np.linalg.norm(weights_of(model) - expected) < 1e-5 * np.linalg.norm(expected)


def test_a_solver_follows_the_flow_of_the_optimizer_inside():
    def trained(optimizer):
        model = compiled(NET, kc.optimizers.RK23(optimizer, rtol=0.1))
        train(model, NET, 4)
        return model.get_weights()

    adam = keras.optimizers.Adam
    assert_all_equal(trained(Lookahead(adam(0.01), steps=9)), trained(adam(0.01)))


def test_a_learning_rate_of_a_callback_reaches_the_optimizer_inside():
    model = compiled(NET, Lookahead(RATE))
    model.optimizer.learning_rate = 0.0
    train(model, NET, 6)
    np.testing.assert_allclose(weights_of(model), NET.start, rtol=1e-6)
    assert float(model.optimizer.inner_optimizer.learning_rate) == 0
    assert int(model.optimizer.iterations) == 6


@pytest.mark.parametrize(
    ("optimizer", "advice"),
    [
        (lambda: kc.optimizers.Heun(0.1), r"Heun\(Lookahead\('adam'\)\)"),
        (
            lambda: kc.optimizers.Accumulate(0.1, 2),
            r"Accumulate\(Lookahead\('adam'\), steps=...\)",
        ),
        (lambda: Lookahead(0.1), r"Lookahead\('adam'\)"),
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
            "LossScaleOptimizer goes around Lookahead",
        ),
    ],
)
def test_what_has_to_be_outside_is_refused(optimizer, advice):
    with pytest.raises(ValueError, match=advice):
        Lookahead(optimizer())


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None])
def test_wrong_steps_are_named(steps):
    with pytest.raises(ValueError, match=f"`steps` of Lookahead .* given {steps}"):
        Lookahead("adam", steps=steps)


@pytest.mark.parametrize("rate", [0, -0.1, 1.1, float("nan"), True, "half"])
def test_a_wrong_rate_is_named(rate):
    with pytest.raises(ValueError, match=f"`rate` of Lookahead .* given {rate!r}"):
        Lookahead("adam", rate=rate)
