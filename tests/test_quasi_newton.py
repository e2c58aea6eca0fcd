"""What `LBFGS`, `BFGS` and `SSBroyden` have in common: minima, what a step does, errors."""

import pathlib
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import assert_all_equal, assert_same_state
from support.killed import train_until_killed
from support.minima import Rosenbrock, minimise, model_of
from support.quasi_newton import PROBLEMS, RNG, inverse_hessian_of, random_pairs, tensors
from support.training import fit

BACKEND = keras.backend.backend()
LBFGS, BFGS, SSBroyden = kc.optimizers.LBFGS, kc.optimizers.BFGS, kc.optimizers.SSBroyden
METHODS = {"LBFGS": LBFGS, "BFGS": BFGS, "SSBroyden": SSBroyden}
every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)

X = RNG.normal(size=(40, 3)).astype("float32")
Y = np.tanh(X @ np.array([[1.0], [-2.0], [0.5]])).astype("float32")


def net(optimizer, *layers, **arguments):
    keras.utils.set_random_seed(1)
    hidden = keras.layers.Dense(5, activation="tanh")
    model = kc.inject(keras.Sequential([keras.Input((3,)), hidden, *layers, keras.layers.Dense(1)]))
    model.compile(optimizer, loss="mse", **arguments)
    return model


def train(model, x=X, y=Y, **arguments):
    return fit(model, x, y, **{"batch_size": len(x), **arguments})


@every
def test_a_pair_that_is_left_out_changes_nothing(method, float64):
    steps, changes = random_pairs(5, 6)
    gradient = RNG.normal(size=6)
    products = []
    for kept, left in ((lambda i: i != 3, slice(5)), (lambda i: True, [0, 1, 2, 4])):
        hessian, state = inverse_hessian_of(method(), steps[left], changes[left], kept)
        products.append(ops.convert_to_numpy(hessian.times(state, *tensors(gradient))))
    np.testing.assert_allclose(*products, rtol=1e-9)


# Minima, and what it takes to get there.


@pytest.mark.thinned(2)
@every
@pytest.mark.parametrize("name", ["rosenbrock-2", "rosenbrock-6", "quadratic", "digits"])
def test_the_minimum_is_found(name, method, float64):
    problem = PROBLEMS[name]
    model = model_of(problem.loss, problem.start, method(max_iterations=500))
    minimise(model, epochs=20)
    value, _ = problem.value_and_gradient(model.get_weights()[0])
    assert value <= problem.target


# What a step does.


@every
def test_a_step_runs_so_many_iterations(method):
    model = net(method(max_iterations=7, gradient_tolerance=0, change_tolerance=0))
    logs = train(model, epochs=3)
    assert logs["quasi_newton_iterations"] == [7, 14, 21]
    assert logs["gradient_evaluations"][0] >= 8
    assert logs["loss"][2] < logs["loss"][1] < logs["loss"][0]


@pytest.mark.backend("torch")
def test_evaluations_are_counted():
    calls = []  # the others trace the loop

    class Counted(kc.Model):
        def compute_loss(self, *args, **kwargs):
            calls.append(1)
            return super().compute_loss(*args, **kwargs)

    inputs = keras.Input((3,))
    model = Counted(inputs, keras.layers.Dense(1)(inputs))
    model.compile(LBFGS(max_iterations=4), loss="mse", run_eagerly=True)
    (before,) = train(model)["gradient_evaluations"]
    calls.clear()  # Keras has computed the loss once to build the metrics
    (after,) = train(model)["gradient_evaluations"]
    assert after - before == len(calls) > 1


def test_the_pairs_go_on_from_step_to_step(float64):
    # One step of 12 iterations, and 12 steps of one, but for the rounding of what is applied.
    whole, parts = net(LBFGS(max_iterations=12)), net(LBFGS(max_iterations=1, max_evaluations=2))
    train(whole)
    train(parts, epochs=12)
    for a, b in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


@every
def test_a_trial_that_is_not_finite_never_reaches_the_weights(method):
    # Beyond 0 the logarithm is not finite; the first trial goes there.
    model = model_of(lambda w: ops.sum(w - ops.log(w)), [0.02, 3.0], method(first_step=1.0))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()[0])
    )
    logs = minimise(model, epochs=5, callbacks=[watch])
    assert np.isfinite(seen).all()
    np.testing.assert_allclose(seen[-1], 1, rtol=1e-3)
    assert logs["skipped_steps"][-1] == 0


def test_where_the_decrease_is_lost_in_rounding_slopes_decide():
    # In float32 10,000 and 10,000 + 1e-4 are the same number.
    model = model_of(lambda w: 1e4 + 1e-4 * ops.sum((w - 1) ** 2), [0.0, 2.0], LBFGS())
    minimise(model)
    np.testing.assert_allclose(model.get_weights()[0], 1, atol=1e-3)


@every
def test_the_numbers_are_the_same_on_every_backend(method, float64):
    # Weights after 20 iterations as JAX gave them; no reference takes the same steps.
    model = model_of(Rosenbrock(4).loss, Rosenbrock(4).start, method(max_iterations=20))
    minimise(model)
    np.testing.assert_allclose(model.get_weights()[0], AFTER_20[method], rtol=1e-8)


AFTER_20 = {
    LBFGS: [0.7772181086930514, 0.5937044921419735, 0.3292036604797837, 0.0821146277973855],
    BFGS: [0.7338157538222931, 0.5343791444707129, 0.2809577407149755, 0.0650576208144645],
    SSBroyden: [0.7664633529246656, 0.581548491859122, 0.3113373390654761, 0.075831021037851],
}


@every
def test_training_stops_where_it_has_converged(method, capsys):
    model = net(method(max_iterations=2, gradient_tolerance=1e-3))
    logs = fit(model, X, Y, batch_size=len(X), epochs=100, verbose=2)
    assert logs["converged"][-1] == 1
    assert 1 < len(logs["loss"]) < 100
    assert (
        "no entry of the gradient is larger than gradient_tolerance=0.001"
        in capsys.readouterr().out
    )
    more = train(model, epochs=3)
    assert len(more["loss"]) == 1  # it has converged already


@every
def test_training_stops_where_rounding_leaves_no_progress(method, capsys):
    # In float32 the loss of this fit is at its minimum after an epoch, and the gradient is noise.
    rng = np.random.default_rng(5)
    x = rng.normal(size=(64, 3)).astype("float32")
    y = (x @ np.ones((3, 1)) + rng.normal(size=(64, 1))).astype("float32")
    model = kc.Model(inputs := keras.Input((3,)), keras.layers.Dense(1)(inputs))
    model.compile(method(gradient_tolerance=0, change_tolerance=0), loss="mse")
    logs = model.fit(x, y, batch_size=64, epochs=60, verbose=2).history
    assert len(logs["loss"]) < 30
    assert "to within the rounding of float32" in capsys.readouterr().out
    best = np.linalg.lstsq(np.hstack([x, np.ones((64, 1))]), y, rcond=None)[0]
    np.testing.assert_allclose(np.vstack(model.get_weights()[:1]), best[:3], rtol=1e-3)


def test_mini_batches_are_warned_of_once():
    model = net(LBFGS(max_iterations=2))
    with pytest.warns(UserWarning, match="another batch at each step"):
        train(model, batch_size=10, epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(model, batch_size=10, epochs=2)


def test_a_full_batch_is_none_whatever_its_order():
    model = net(LBFGS(max_iterations=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(model, epochs=5, shuffle=True)
        train(model, X[:30], Y[:30], epochs=5)
        train(model, X[:20], Y[:20], epochs=5)


@every
def test_another_set_of_variables_starts_anew(method):
    model = net(method(max_iterations=5))
    model.optimizer.build(model.trainable_variables)
    train(model, epochs=2)
    frozen = model.layers[0].get_weights()
    model.layers[0].trainable = False
    model.compile(model.optimizer, loss="mse")
    losses = train(model, epochs=3)["loss"]
    assert losses[-1] < losses[0]
    for a, b in zip(model.layers[0].get_weights(), frozen, strict=True):
        np.testing.assert_array_equal(a, b)
    model.layers[0].trainable = True
    model.compile(model.optimizer, loss="mse")
    assert train(model, epochs=3)["loss"][-1] < losses[-1]


def train_with_backup(path, callbacks=()):
    """6 epochs on the full batch, with dropout; a backup after each."""
    model = net(LBFGS(memory=3, max_iterations=3), keras.layers.Dropout(0.2, seed=1))
    backup = keras.callbacks.BackupAndRestore(pathlib.Path(path) / "backup")
    return model, train(model, epochs=6, callbacks=[backup, *callbacks])


def test_a_killed_training_goes_on_bit_for_bit(tmp_path):
    train_until_killed("test_quasi_newton", tmp_path, epoch=3, batch=0)
    resumed, logs = train_with_backup(tmp_path)
    assert len(logs["loss"]) == 3
    assert_same_state(resumed, train_with_backup(tmp_path / "whole")[0])


@every
def test_random_layers_see_the_same_seeds_within_a_step(method):
    model = net(method(max_iterations=30), keras.layers.Dropout(0.5, seed=3))
    logs = train(model, epochs=2)
    # The mask is that of one subnet throughout the step: the line search finds its way down in it.
    assert logs["quasi_newton_iterations"][0] == 30
    state = model.layers[1].seed_generator.state.numpy()
    np.testing.assert_array_equal(state, [3, 2])  # two draws, one a step


def test_batch_normalisation_is_updated_once_a_step():
    model = net(LBFGS(max_iterations=5), keras.layers.BatchNormalization(momentum=0.5))
    hidden = np.tanh(X @ model.layers[0].get_weights()[0])
    train(model)
    np.testing.assert_allclose(
        model.layers[1].moving_mean.numpy(), hidden.mean(axis=0) / 2, rtol=1e-4
    )


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": 0}, "`memory` of LBFGS is a positive integer"),
        ({"max_iterations": 0}, "`max_iterations` of LBFGS is a positive integer"),
        ({"max_evaluations": 2.5}, "`max_evaluations` of LBFGS is an integer, at least 2"),
        ({"max_evaluations": 1}, "`max_evaluations` of LBFGS is an integer, at least 2"),
        ({"c1": 0.5, "c2": 0.1}, "0 < c1 < c2 < 1"),
        ({"c1": 0.0}, "`c1` of LBFGS is a finite number, between 0 and 1"),
        ({"line_search": "armijo"}, "is 'strong_wolfe'"),
        ({"gradient_tolerance": -1.0}, "at least 0"),
        ({"first_step": 0}, "positive, or None"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        LBFGS(**arguments)


@pytest.mark.parametrize("method", [BFGS, SSBroyden])
def test_too_many_weights_for_a_dense_matrix(method):
    model = kc.Model(inputs := keras.Input((200,)), keras.layers.Dense(60)(inputs))
    model.compile(method(), loss="mse")
    with pytest.raises(ValueError, match=r"12,060 weights.* 0\.6 GB.*LBFGS"):
        model.fit(np.ones((2, 200)), np.ones((2, 60)), verbose=0)


RATES = {
    "LearningRateScheduler": lambda model: keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
    "Schedule": lambda model: kc.callbacks.Schedule((model.optimizer, "learning_rate"), {0: 0.1}),
    "Rescue": lambda model: kc.callbacks.Rescue(),
    "LearningRateFinder": lambda model: kc.callbacks.LearningRateFinder(1e-5, 1.0),
}


@pytest.mark.parametrize("name", RATES)
def test_there_is_no_learning_rate_to_set(name):
    model = net(LBFGS())
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"has no(ne\.| learning rate)"):
        train(model, callbacks=[RATES[name](model)])
    if name != "LearningRateScheduler":
        assert_all_equal(model.get_weights(), before)
    assert not hasattr(model.optimizer.learning_rate, "assign")


@every
def test_constraints_are_refused(method):
    model = kc.Model(
        inputs := keras.Input((3,)), keras.layers.Dense(1, kernel_constraint="non_neg")(inputs)
    )
    model.compile(method(), loss="mse")
    with pytest.raises(ValueError, match="a minimum without constraints, and .*kernel"):
        train(model)


@pytest.mark.parametrize("scale", [1e20, 1e-30])
def test_a_gradient_whose_square_is_no_number(scale):
    model = model_of(lambda w: scale * ops.sum(w * w), [2.0, 3.0], LBFGS(gradient_tolerance=0))
    with pytest.raises(ValueError, match=r"square of the gradient .*enable_float64\(\)"):
        minimise(model)
    np.testing.assert_array_equal(model.get_weights()[0], [2, 3])


@pytest.mark.parametrize("start", [1e4, 1e6])
def test_a_weight_that_becomes_much_smaller_keeps_its_digits(start):
    # In float32 1e6 - (1e6 - 1e-3) is 0.
    methods = (LBFGS, kc.optimizers.LevenbergMarquardt, lambda: flow)
    flow = kc.optimizers.RK45(full_batch=True, flow_time=20.0)
    for method in methods:
        model = model_of(lambda w: ops.sum(kc.squared_residuals(w - 1e-3)), [start], method())
        minimise(model)
        np.testing.assert_allclose(model.get_weights()[0], 1e-3, rtol=1e-2)


def test_a_first_step_that_is_too_long():
    model = model_of(lambda w: ops.sum(w * w), [2.0, 3.0], LBFGS(first_step=1e30))
    with pytest.raises(ValueError, match=r"first_step=1e\+30: that is too long"):
        minimise(model)


def test_step_monitor_sees_the_first_gradient():
    monitors = []
    for optimizer in (LBFGS(), "sgd"):
        monitors.append(kc.callbacks.StepMonitor(frequency=1))
        train(net(optimizer), callbacks=[monitors[-1]])
    of_lbfgs, of_sgd = (monitor.data() for monitor in monitors)
    np.testing.assert_allclose(of_lbfgs["gradient_norm"], of_sgd["gradient_norm"], rtol=1e-5)
    assert of_lbfgs["update_norm"][0] > 0
    assert "learning_rate" not in of_lbfgs


def test_a_model_without_the_mixin():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(LBFGS(), loss="mse")
    with pytest.raises(ValueError, match=r"keras_cool.inject\(model\)"):
        train(model)
