"""`SAM` against its formulas in NumPy, against optax and against pytorch_optimizer."""

import keras
import numpy as np
import pytest

import keras_cool as kc
from support.comparisons import assert_all_close, assert_all_equal
from support.gradient_flows import POISSON, PROBLEMS, compiled, train, weights_of
from support.training import fit

SAM = kc.optimizers.SAM
NET = PROBLEMS["net"]
RATE, RHO, STEPS = 0.1, 0.05, 20


def perturbation(g, p, rho=RHO, adaptive=False):
    scale = np.abs(p) if adaptive else 1.0
    norm = np.linalg.norm(scale * g)
    return np.zeros_like(g) if norm == 0 else rho * scale**2 * g / norm


def numpy_sam(gradient, p, steps=STEPS, adaptive=False, interval=1, alpha=0.7, start=0):
    kept = None
    for t in range(steps):
        g = gradient(p)
        if t >= start and (t - start) % interval == 0:
            estimate = gradient(p + perturbation(g, p, adaptive=adaptive))
            kept = estimate - (estimate @ g) / (g @ g) * g
        elif kept is not None and interval > 1:
            estimate = g + alpha * np.linalg.norm(g) / np.linalg.norm(kept) * kept
        else:
            estimate = g
        p = p - RATE * estimate
    return p


ARGUMENTS = {
    "plain": {},
    "adaptive": {"adaptive": True},
    "interval": {"interval": 3, "alpha": 0.5},
    "interval-adaptive-start": {"interval": 4, "adaptive": True, "start": 5},
    "start": {"start": 7},
}
every = pytest.mark.parametrize("name", ARGUMENTS)


@every
def test_the_formulas_in_float64(name, float64):
    model = compiled(NET, SAM(RATE, rho=RHO, **ARGUMENTS[name]))
    train(model, NET, STEPS)
    expected = numpy_sam(NET.gradient, NET.start, **ARGUMENTS[name])
    assert np.linalg.norm(expected - numpy_sam(NET.gradient, NET.start, start=STEPS)) > 1e-4
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-10)


@every
def test_the_formulas_in_float32(name):
    model = compiled(NET, SAM(RATE, rho=RHO, **ARGUMENTS[name]))
    train(model, NET, STEPS)
    expected = numpy_sam(NET.gradient, NET.start, **ARGUMENTS[name])
    error = np.linalg.norm(weights_of(model) - expected) / np.linalg.norm(expected)
    assert error < 1e-5


def test_what_a_step_takes_is_counted():
    for arguments, expected in (({}, 12), ({"interval": 4}, 8), ({"start": 4}, 8)):
        model = compiled(POISSON, SAM(0.01, **arguments))
        assert train(model, POISSON, 6)["gradient_evaluations"][-1] == expected, arguments


def test_a_zero_gradient_perturbs_nothing():
    for arguments in ARGUMENTS.values():
        model = compiled(NET, SAM(RATE, **arguments))
        model.set_weights([np.zeros_like(w) for w in model.get_weights()])
        logs = fit(model, NET.x, 0 * NET.y, batch_size=len(NET.x), epochs=3)
        assert logs["skipped_steps"] == [0, 0, 0]
        assert not weights_of(model).any()


def test_a_frozen_layer_has_no_part_in_the_norm():
    model = compiled(NET, SAM(RATE, rho=RHO, interval=2))
    model.layers[1].trainable = False
    model.compile(SAM(RATE, rho=RHO, interval=2), loss=model.loss)
    train(model, NET, STEPS)

    def gradient(last):
        return NET.gradient(np.concatenate([NET.start[:15], last]))[15:]

    expected = numpy_sam(gradient, NET.start[15:], interval=2)
    np.testing.assert_allclose(weights_of(model)[15:], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights_of(model)[:15], NET.start[:15], rtol=1e-6)


def mean_net(optimizer, **arguments):
    """A model of the mean squared error, with a weight vector and nothing else."""
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = kc.Model(inputs := keras.Input((3,)), dense(inputs))
    model.compile(optimizer, loss="mse", weighted_metrics=[], **arguments)
    return model


RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3))
Y = RNG.normal(size=(12, 1))
WEIGHTS = RNG.uniform(0.5, 2, size=12)


def mean_gradient(rows, p):
    return 2 * (X[rows] * WEIGHTS[rows, None]).T @ (X[rows] @ p - Y[rows, 0]) / len(rows)


@pytest.mark.parametrize("arguments", [{}, {"adaptive": True}, {"interval": 2}, {"start": 1}])
def test_per_part_perturbs_each_micro_batch_by_its_own_gradient(arguments, float64):
    optimizer = SAM(RATE, rho=0.5, per_part=True, **arguments)
    model = mean_net(optimizer, microbatch_size=4)
    logs = fit(model, X, Y, batch_size=12, sample_weight=WEIGHTS)
    parts = [np.arange(4), np.arange(4, 8), np.arange(8, 12)]
    p = np.ones(3)
    first = mean_gradient(np.arange(12), p)
    own = [mean_gradient(rows, p) for rows in parts]
    moved = [p + perturbation(g, p, 0.5, arguments.get("adaptive")) for g in own]
    second = sum(mean_gradient(r, m) / 3 for r, m in zip(parts, moved, strict=True))
    expected = p - RATE * (first if "start" in arguments else second)
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-10)
    taken = {"interval": 3, "start": 1}
    assert logs["gradient_evaluations"] == [taken.get("".join(arguments), 2)]
    loss = np.mean(WEIGHTS * (X @ np.ones(3) - Y[:, 0]) ** 2)
    np.testing.assert_allclose(logs["loss"], [loss], rtol=1e-6)


def test_per_part_is_the_whole_batch_without_micro_batches():
    models = mean_net(SAM(RATE, per_part=True)), mean_net(SAM(RATE))
    for model in models:
        fit(model, X, Y, epochs=3)
    assert_all_close(*(m.get_weights() for m in models), rtol=1e-6)


def stateful_net(optimizer):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(6),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.4, seed=1),
        keras.layers.Dense(1),
    ]
    model = kc.Model(inputs := keras.Input((3,)), keras.Sequential(layers)(inputs))
    model.compile(optimizer, loss="mse")
    return model


@pytest.mark.parametrize("arguments", [{}, {"interval": 2}, {"per_part": True}])
def test_layer_state_and_seeds_are_those_of_one_pass(arguments):
    plain = stateful_net(keras.optimizers.SGD(0.0))
    model = stateful_net(SAM(0.0, rho=1.0, **arguments))
    logs, expected = fit(model, X, Y, epochs=2), fit(plain, X, Y, epochs=2)
    np.testing.assert_allclose(logs["loss"], expected["loss"], rtol=1e-6)
    assert_all_close(model.get_weights(), plain.get_weights(), rtol=1e-6)
    seeds = [
        [np.array(v) for v in m.non_trainable_variables if "seed" in v.path] for m in (model, plain)
    ]
    assert seeds[0]
    assert_all_equal(*seeds)


def test_both_passes_see_the_same_masks():
    # With other masks in the second pass the gradient would differ even for the smallest rho.
    plain, model = stateful_net(keras.optimizers.SGD(0.1)), stateful_net(SAM(0.1, rho=1e-6))
    for m in (plain, model):
        fit(m, X, Y, epochs=2)
    assert_all_close(model.get_weights(), plain.get_weights(), rtol=1e-3, atol=1e-4)


def test_a_loss_scale_changes_nothing():
    models = []
    for optimizer in (SAM(RATE), keras.optimizers.LossScaleOptimizer(SAM(RATE))):
        model = compiled(NET, optimizer)
        train(model, NET, 5)
        models.append(weights_of(model))
    np.testing.assert_allclose(*models, rtol=1e-5)


def test_the_inner_optimizer_is_any():
    model = compiled(NET, SAM(keras.optimizers.Adam(0.01, weight_decay=0.1), rho=RHO))
    train(model, NET, 1)
    g = NET.gradient(NET.start + perturbation(NET.gradient(NET.start), NET.start))
    expected = NET.start - 0.01 * np.sign(g) - 0.01 * 0.1 * NET.start
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-4)


@pytest.mark.multi_optimizer
def test_an_optimizer_for_each_part_of_the_weights():
    model = compiled(NET, "sgd")
    some = keras.optimizers.OptimizerMap(keras.optimizers.SGD(RATE))
    some[f"{model.layers[1].name}.*"] = keras.optimizers.SGD(2 * RATE)
    model.compile(SAM(keras.optimizers.MultiOptimizer(some), rho=RHO), loss=model.loss)
    train(model, NET, 1)
    g = NET.gradient(NET.start + perturbation(NET.gradient(NET.start), NET.start))
    expected = NET.start - np.where(np.arange(20) < 15, 2, 1) * RATE * g
    np.testing.assert_allclose(weights_of(model), expected, rtol=1e-4)


@pytest.mark.backend("jax")
def test_equals_optax():
    import jax.numpy as jnp
    import optax

    optimizer = optax.contrib.sam(
        optax.sgd(RATE), optax.chain(optax.contrib.normalize(), optax.sgd(RHO)), opaque_mode=True
    )

    def gradient(p, *_):
        return jnp.asarray(NET.gradient(np.float64(p)), "float32")

    p = jnp.asarray(NET.start, "float32")
    state = optimizer.init(p)
    for _ in range(STEPS):
        updates, state = optimizer.update(gradient(p), state, p, grad_fn=gradient)
        p = optax.apply_updates(p, updates)
    model = compiled(NET, SAM(RATE, rho=RHO))
    train(model, NET, STEPS)
    np.testing.assert_allclose(weights_of(model), p, rtol=1e-4, atol=1e-6)


@pytest.mark.backend("torch")
@pytest.mark.parametrize("adaptive", [False, True])
def test_equals_pytorch_optimizer(adaptive):
    import torch
    from pytorch_optimizer import SAM as Peer  # noqa: N811

    p = torch.nn.Parameter(torch.tensor(NET.start))
    optimizer = Peer([p], torch.optim.SGD, rho=RHO, adaptive=adaptive, lr=RATE)

    def set_gradient():
        p.grad = torch.tensor(NET.gradient(p.detach().numpy()))

    for _ in range(STEPS):
        set_gradient()
        optimizer.first_step(zero_grad=True)
        set_gradient()
        optimizer.second_step(zero_grad=True)
    model = compiled(NET, SAM(RATE, rho=RHO, adaptive=adaptive))
    train(model, NET, STEPS)
    np.testing.assert_allclose(weights_of(model), p.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_the_arguments_are_saved():
    arguments = {"rho": 0.2, "adaptive": True, "interval": 5, "alpha": 0.5, "start": 9}
    optimizer = SAM("adam", per_part=True, **arguments)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert copy.get_config() == optimizer.get_config()
    assert {k: copy.get_config()[k] for k in arguments} == arguments


WRONG = {
    "rho": [0, -1, float("nan"), float("inf"), "small", True],
    "interval": [0, 1.5, True, None],
    "alpha": [-1, float("inf"), None],
    "start": [-1, 0.5, None],
    "adaptive": ["yes"],
    "per_part": ["no", 16],
}


@pytest.mark.parametrize(("name", "value"), [(k, v) for k, values in WRONG.items() for v in values])
def test_a_wrong_argument_is_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` of SAM is .* given {value!r}.*{name}="):
        SAM("adam", **{name: value})
