"""`LevenbergMarquardt` beside NumPy, SciPy and certified values; and errors."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.optimize import least_squares

import keras_cool as kc
from support.comparisons import assert_all_close
from support.minima import Value, minimise, model_of
from support.training import fit

LevenbergMarquardt = kc.optimizers.LevenbergMarquardt
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3))
Y = np.tanh(X @ np.array([[1.0, 0.3], [-2.0, 1.0], [0.5, 0.0]]))
WEIGHTS = RNG.uniform(0.2, 2, size=30)
NEVER = {"gradient_tolerance": 0, "change_tolerance": 0}


def linear(**arguments):
    keras.utils.set_random_seed(1)
    model = kc.Model(inputs := keras.Input((3,)), keras.layers.Dense(2)(inputs))
    model.compile(LevenbergMarquardt(max_iterations=1), **{"loss": "mse", **arguments})
    return model


def train(model, count=30, **arguments):
    return fit(model, X[:count], Y[:count], batch_size=count, **arguments)


def expected_step(start, count, weights, damping=1e-3):
    """The weights after one iteration, by the normal equations."""
    design = np.hstack([X[:count], np.ones((count, 1))])
    factors = weights[:count, None] / (2 * count)
    matrix = design.T @ (factors * design)
    residuals = design @ np.vstack(start) - Y[:count]
    shifted = matrix + damping * matrix.diagonal().max() * np.eye(4)
    end = np.vstack(start) - np.linalg.solve(shifted, design.T @ (factors * residuals))
    return [end[:3], end[3]]


def rows_of(start):
    return [start[0], start[1][None]]


@pytest.mark.parametrize(
    ("count", "size", "weights"),
    [(30, None, None), (30, 7, WEIGHTS), (3, None, WEIGHTS), (3, 2, None)],
    ids=["whole", "micro-batches", "more weights", "more weights in micro-batches"],
)
def test_an_iteration_solves_the_damped_normal_equations(count, size, weights, float64):
    model = linear(microbatch_size=size)
    start = rows_of(model.get_weights())
    given = None if weights is None else weights[:count]
    train(model, count, sample_weight=given)
    factors = np.ones(30) if weights is None else weights
    assert_all_close(model.get_weights(), expected_step(start, count, factors), rtol=1e-10)


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_a_loss_of_another_reduction(reduction, float64):
    model = linear(loss=keras.losses.MeanSquaredError(reduction), microbatch_size=7)
    start = rows_of(model.get_weights())
    train(model, sample_weight=WEIGHTS)
    # The damping is in units of the matrix: a factor of the loss changes nothing.
    assert_all_close(model.get_weights(), expected_step(start, 30, WEIGHTS), rtol=1e-10)


def nielsen(function, jacobian, start, iterations, damping=1e-3):
    """Nielsen, 1999, in NumPy."""
    w, growth, mu = start, 2.0, None
    for _ in range(iterations):
        r, j = function(w), jacobian(w)
        mu = damping * (j * j).sum(axis=0).max() if mu is None else mu
        while True:
            step = -np.linalg.solve(j.T @ j + mu * np.eye(len(w)), j.T @ r)
            new = function(w + step)
            gain = (r @ r - new @ new) / (r @ r - np.sum((r + j @ step) ** 2))
            if gain > 0:
                break
            mu, growth = mu * growth, 2 * growth
        w, growth, mu = w + step, 2.0, mu * max(1 / 3, 1 - (2 * gain - 1) ** 3)
    return w, mu


def valley(w):
    return ops.stack([10 * (w[1] - w[0] ** 2), 1 - w[0], 3 * ops.sin(w[0] * w[1])])


def valley_in_numpy(w):
    return np.array([10 * (w[1] - w[0] ** 2), 1 - w[0], 3 * np.sin(w[0] * w[1])])


def slopes_of_valley(w):
    c = 3 * np.cos(w[0] * w[1])
    return np.array([[-20 * w[0], 10], [-1, 0], [c * w[1], c * w[0]]])


def of_residuals(function):
    return lambda w: ops.sum(kc.squared_residuals(function(w)))


def test_the_damping_follows_the_gain_ratio(float64):
    start = [-1.2, 1.0]
    model = model_of(of_residuals(valley), start, LevenbergMarquardt(max_iterations=7, **NEVER))
    logs = minimise(model)
    expected, damping = nielsen(valley_in_numpy, slopes_of_valley, np.array(start), 7)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-9)
    np.testing.assert_allclose(logs["damping"], damping, rtol=1e-9)
    assert logs["levenberg_marquardt_iterations"] == [7]
    assert logs["gradient_evaluations"] == [8]


def test_the_damping_goes_on_from_step_to_step(float64):
    whole, parts = (
        model_of(of_residuals(valley), [-1.2, 1.0], LevenbergMarquardt(max_iterations=n, **NEVER))
        for n in (6, 1)
    )
    minimise(whole)
    minimise(parts, epochs=6)
    np.testing.assert_allclose(parts.get_weights()[0], whole.get_weights()[0], rtol=1e-9)


def test_the_minimum_is_that_of_scipy(float64):
    model = model_of(of_residuals(valley), [-1.2, 1.0], LevenbergMarquardt())
    logs = minimise(model, epochs=10)
    expected = least_squares(valley_in_numpy, [-1.2, 1.0], method="lm", xtol=1e-12, ftol=1e-12)
    np.testing.assert_allclose(model.get_weights()[0], expected.x, rtol=1e-6)
    assert logs["converged"][-1] == 1
    assert len(logs["loss"]) < 10


def test_certified_values_of_nist(float64):
    """Misra1a of the NIST StRD, y = b1 (1 - exp(-b2 x)), from its first starting values."""
    x = [
        77.6,
        114.9,
        141.1,
        190.8,
        239.9,
        289,
        332.8,
        378.4,
        434.8,
        477.3,
        536.8,
        593.1,
        689.1,
        760,
    ]
    y = [10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.4, 75.47]
    x, y = np.array(x), np.array([*y, 81.78])

    def residuals(b):
        return b[0] * (1 - ops.exp(-b[1] * ops.convert_to_tensor(x))) - ops.convert_to_tensor(y)

    model = model_of(of_residuals(residuals), [500.0, 1e-4], LevenbergMarquardt(1e-12))
    minimise(model, epochs=30)
    certified = [2.3894212918e02, 5.5015643181e-04]
    np.testing.assert_allclose(model.get_weights()[0], certified, rtol=1e-7)
    value = model.evaluate(np.ones((1, 1)), np.ones((1, 1)), verbose=0)
    np.testing.assert_allclose(value, 1.2455138894e-01, rtol=1e-9)  # the certified sum of squares


# What never happens silently.


def test_a_try_that_is_not_finite_never_reaches_the_weights():
    # Beyond 0 the logarithm is not finite; undamped the first try goes there.
    def residuals(w):
        return ops.log(w) - 1

    model = model_of(of_residuals(residuals), [20.0, 3.0], LevenbergMarquardt(1e-9))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()[0])
    )
    minimise(model, epochs=3, callbacks=[watch])
    assert np.isfinite(seen).all()
    np.testing.assert_allclose(seen[-1], np.e, rtol=1e-5)


def test_training_stops_where_no_damping_finds_a_lower_loss(capsys):
    model = model_of(of_residuals(valley), [-1.2, 1.0], LevenbergMarquardt(**NEVER))
    one = np.ones((1, 1))
    losses = model.fit(one, one, epochs=50, verbose=2).history["loss"]
    assert len(losses) < 50
    assert "no lower loss was found at any damping" in capsys.readouterr().out


def test_residuals_that_no_weight_enters():
    model = kc.Model(inputs := keras.Input((1,)), Value(ops.sum, np.ones(2))(inputs))
    model.compile(LevenbergMarquardt(), loss=lambda y, p: kc.squared_residuals(y + 0 * p))
    logs = minimise(model)
    assert logs["converged"] == [1]
    np.testing.assert_array_equal(model.get_weights()[0], [1, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"damping": 0}, "`damping` of LevenbergMarquardt is a finite number, above 0"),
        ({"max_iterations": 1.5}, "`max_iterations` of LevenbergMarquardt is a positive integer"),
        ({"gradient_tolerance": -1}, "at least 0"),
        ({"change_tolerance": float("nan")}, "at least 0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        LevenbergMarquardt(**arguments)


def test_too_many_weights_and_residuals():
    model = kc.Model(inputs := keras.Input((101,)), keras.layers.Dense(100)(inputs))
    model.compile(LevenbergMarquardt(), loss="mse", microbatch_size=1)
    with pytest.raises(ValueError, match=r"10,200 by 10,200 numbers.* 0\.4 GB.*LBFGS"):
        model.fit(np.ones((2, 101)), np.ones((2, 100)), verbose=0)


def test_there_is_no_learning_rate_to_set():
    with pytest.raises(ValueError, match="its damping sets the length of a step"):
        train(linear(), callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)])
