"""Step size control, step for step against SciPy's `solve_ivp`."""

import inspect
import json
import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy.integrate import RK23, RK45, solve_ivp

import keras_cool as kc
from support.gradient_flows import PROBLEMS, compiled, exact_flow, train, weights_of

SCIPY = {"RK23": RK23, "RK45": RK45}


def scipy_steps(method, problem, steps, **settings):
    """The sizes of the first accepted steps, the evaluations and the end, by SciPy."""
    solver = SCIPY[method](
        lambda t, p: -problem.gradient(p), 0.0, problem.start, t_bound=1e6, **settings
    )
    sizes = []
    for _ in range(steps):
        assert solver.step() is None
        sizes.append(solver.step_size)
    return np.array(sizes), solver


TIGHT = {"rtol": 1e-6, "atol": 1e-8, "first_step": 0.5, "max_step": 0.6}


@pytest.mark.parametrize(
    ("method", "problem", "settings"),
    [
        ("RK23", "net", {}),
        ("RK23", "logistic", {}),
        ("RK23", "quadratic", {**TIGHT, "first_step": 0.02}),
        ("RK45", "net", TIGHT),
        ("RK45", "logistic", {}),
        ("RK45", "quadratic", {}),
    ],
)
def test_the_same_steps_as_scipy(method, problem, settings, float64):
    problem = PROBLEMS[problem]
    sizes, solver = scipy_steps(method, problem, 40, **settings)
    model = compiled(problem, getattr(kc.optimizers, method)(**settings))
    logs = train(model, problem, 40)
    np.testing.assert_allclose(logs["step_size"][:25], sizes[:25], rtol=1e-7)
    np.testing.assert_allclose(logs["flow_time"][-1], solver.t, rtol=1e-5)
    np.testing.assert_allclose(weights_of(model), solver.y, rtol=1e-6, atol=1e-8)
    assert logs["skipped_steps"][-1] == 0
    # SciPy takes the first stage of a step from the last one before; here each has a new batch.
    assert logs["gradient_evaluations"][-1] == solver.nfev + 39
    # As many steps over a fixed time, which ends within the 34th; SciPy cuts its last one short.
    time = sizes[:33].sum() + sizes[33] / 2
    whole = solve_ivp(
        lambda t, p: -problem.gradient(p), (0, time), problem.start, method=method, **settings
    )
    assert len(whole.t) - 1 == np.count_nonzero(logs["flow_time"] < time) + 1 == 34


@pytest.mark.parametrize("method", SCIPY)
def test_the_defaults_are_those_of_scipy(method):
    theirs = inspect.signature(SCIPY[method]).parameters
    ours = inspect.signature(getattr(kc.optimizers, method)).parameters
    for name in ("rtol", "atol", "first_step", "max_step"):
        assert ours[name].default == theirs[name].default, name


@pytest.mark.parametrize("method", SCIPY)
def test_float32_keeps_to_the_flow_within_the_tolerance(method):
    """Rounding shows in the step sizes, by which backends differ; not in where a step ends."""
    problem = PROBLEMS["net"]
    model = compiled(problem, getattr(kc.optimizers, method)(0.1))
    logs = train(model, problem, 100)
    np.testing.assert_allclose(logs["step_size"][0], 0.1, rtol=1e-6)
    assert len(np.unique(logs["step_size"])) > 20  # under control
    exact = exact_flow(problem, logs["flow_time"][-1])
    assert np.linalg.norm(exact - problem.start) > 0.3 * np.linalg.norm(problem.start)
    assert np.linalg.norm(weights_of(model) - exact) < 1e-3 * np.linalg.norm(exact)


@pytest.mark.parametrize("method", SCIPY)
def test_full_batch_takes_the_evaluations_of_scipy(method, float64):
    """The last stage is the first one of the next step; new weights, or data, are noticed."""
    problem = PROBLEMS["net"]
    _, solver = scipy_steps(method, problem, 20)
    model = compiled(problem, getattr(kc.optimizers, method)(full_batch=True))
    logs = train(model, problem, 20)
    assert logs["gradient_evaluations"][-1] == solver.nfev
    np.testing.assert_allclose(weights_of(model), solver.y, rtol=1e-10, atol=1e-12)
    model.set_weights([w / 2 for w in model.get_weights()])
    before = logs["gradient_evaluations"][-1]
    evaluations = np.diff(train(model, problem, 2)["gradient_evaluations"], prepend=before)
    stages = getattr(kc.optimizers, method).tableau.stages
    assert (evaluations % (stages - 1)).tolist() == [1, 0]


class Counted(keras.layers.Layer):
    """Counts its calls in Python: what is compiled calls it only when it is traced."""

    calls = 0

    def call(self, x):
        Counted.calls += 1
        return x


def test_rejected_tries_are_not_compiled_again_and_are_counted():
    inputs = keras.Input((3,))
    model = kc.Model(inputs, keras.layers.Dense(1)(Counted()(inputs)))
    model.compile(kc.optimizers.RK45(0.01), loss="mse", run_eagerly=False)
    x, y = np.ones((4, 3)), np.ones((4, 1))
    model.fit(x, y, verbose=0)
    Counted.calls, before = 0, int(model.optimizer.step_logs()["gradient_evaluations"])
    rejected = []
    for rate in (0.01, 30.0, 3.0):
        model.optimizer.learning_rate = rate
        rejected.append(model.fit(x, y, verbose=0).history["rejected_tries"][0])
    assert rejected[2] > rejected[1] > rejected[0] == 0
    evaluations = int(model.optimizer.step_logs()["gradient_evaluations"]) - before
    assert evaluations == 3 * 7 + 6 * rejected[2]
    assert Counted.calls == (evaluations if keras.backend.backend() == "torch" else 0)


def walled(optimizer):
    """The loss `p - log(1 - p)` a weight, which has no value from p = 1 on, at p = 0.9."""
    inputs = keras.Input((1,))
    dense = keras.layers.Dense(1, use_bias=False)
    model = kc.Model(inputs, dense(inputs))
    dense.kernel.assign([[0.9]])
    model.compile(optimizer, loss=lambda y, p: -ops.log(1 - p) + y * p)
    return model


def fit_walled(model, y=-20.0, epochs=1):
    y = np.full((4, 1), y)
    return model.fit(np.ones((4, 1)), y, epochs=epochs, batch_size=4, verbose=0).history


def test_a_try_that_is_not_finite_is_rejected():
    model = walled(kc.optimizers.RK23(10.0))
    logs = fit_walled(model)
    assert logs["rejected_tries"][0] >= 3
    assert logs["skipped_steps"] == [0]
    assert 0.9 < model.get_weights()[0][0, 0] < 1
    logs = fit_walled(model, epochs=30)
    np.testing.assert_allclose(model.get_weights()[0], 0.95, rtol=5e-3)  # 1 / (1 - p) = 20


def test_a_step_that_stays_too_large_keeps_the_weights_and_the_smaller_size():
    model = walled(kc.optimizers.RK23(10.0, max_rejections=1))
    logs = fit_walled(model)
    assert logs["too_large_steps"] == logs["skipped_steps"] == [1]
    assert logs["step_size"] == logs["flow_time"] == [0]
    assert logs["gradient_evaluations"] == [1 + 2 * 3]
    assert model.get_weights()[0][0, 0] == np.float32(0.9)
    assert int(model.optimizer.iterations) == 0
    assert 10 * 0.2**2 - 1e-5 < float(model.optimizer.learning_rate) < 10 * 0.2
    logs = fit_walled(model, epochs=30)
    np.testing.assert_allclose(model.get_weights()[0], 0.95, rtol=5e-3)
    assert logs["too_large_steps"][-1] == logs["skipped_steps"][-1]
    assert int(model.optimizer.iterations) == 31 - logs["skipped_steps"][-1]


def test_where_the_gradient_is_not_finite_nothing_is_tried():
    model = walled(kc.optimizers.RK45(0.25))
    logs = fit_walled(model, y=np.nan)
    assert np.isnan(logs["loss"][0])
    assert (logs["skipped_steps"], logs["too_large_steps"]) == ([1], [0])
    assert (logs["gradient_evaluations"], logs["rejected_tries"]) == ([1], [0])
    assert float(model.optimizer.learning_rate) == 0.25
    chosen = walled(kc.optimizers.RK45())
    assert fit_walled(chosen, y=np.nan)["gradient_evaluations"] == [1]
    assert fit_walled(chosen)["step_size"][0] > 0


def test_the_learning_rate_reads_and_writes_the_size_of_the_next_step():
    model = walled(kc.optimizers.RK23(1e-4))
    np.testing.assert_allclose(float(model.optimizer.learning_rate), 1e-4)
    np.testing.assert_allclose(fit_walled(model)["step_size"], 1e-4)
    after = float(model.optimizer.learning_rate)
    assert 1e-4 < after <= 1e-3 * 1.0001
    np.testing.assert_allclose(fit_walled(model)["step_size"], after)
    model.optimizer.learning_rate = 2e-5
    np.testing.assert_allclose(fit_walled(model)["step_size"], 2e-5)


SCHEDULE = keras.optimizers.schedules.CosineDecay(0.1, 10)


def test_without_control_the_learning_rate_is_the_step():
    model = walled(kc.optimizers.RK45(SCHEDULE, adaptive=False))
    logs = fit_walled(model, y=-10.5, epochs=2)
    assert logs["gradient_evaluations"] == [6, 12]
    assert sorted(logs) == ["gradient_evaluations", "loss", "skipped_steps"]


FIRST_STEPS = {
    "nothing": (kc.optimizers.RK45, 0),
    "float": (lambda: kc.optimizers.RK45(0.1), 0.1),
    "first_step": (lambda: kc.optimizers.RK45(first_step=0.2), 0.2),
    "both-alike": (lambda: kc.optimizers.RK45(0.1, first_step=0.1), 0.1),
    "name": (lambda: kc.optimizers.RK45("adam"), 0),
    "optimizer": (lambda: kc.optimizers.RK45(keras.optimizers.Adam(0.25)), 0.25),
    "optimizer-auto": (
        lambda: kc.optimizers.RK45(keras.optimizers.Adam(0.25), first_step="auto"),
        0,
    ),
    "optimizer-and-first_step": (
        lambda: kc.optimizers.RK45(keras.optimizers.Adam(), first_step=0.5),
        0.5,
    ),
}


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_first_step(name):
    """0 stands for a first step that is chosen when it is taken."""
    make, expected = FIRST_STEPS[name]
    optimizer = make()
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    for o in (optimizer, copy):
        np.testing.assert_allclose(float(o.learning_rate), expected, rtol=1e-6)


RK4_TABLEAU = kc.optimizers.RK4.tableau
RK45_TABLEAU = kc.optimizers.RK45.tableau


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kc.optimizers.RK45(rtol=0), "`rtol` has to be a finite number above 0"),
        (lambda: kc.optimizers.RK45(rtol=-1e-3), "`rtol` has to be"),
        (lambda: kc.optimizers.RK45(atol=float("nan")), "`atol` has to be"),
        (lambda: kc.optimizers.RK45(atol=None), "`atol` has to be"),
        (lambda: kc.optimizers.RK45(max_step=0), "`max_step` has to be"),
        (lambda: kc.optimizers.RK45(first_step=2, max_step=1), "at most max_step=1"),
        (lambda: kc.optimizers.RK45(2.0, max_step=1), "at most max_step=1"),
        (lambda: kc.optimizers.RK45(0.0), "first step has to be above 0"),
        (lambda: kc.optimizers.RK45(first_step=-1), "first step has to be above 0"),
        (lambda: kc.optimizers.RK45(first_step="soon"), "first step has to be above 0"),
        (lambda: kc.optimizers.RK45(0.1, first_step=0.2), "first step size twice"),
        (lambda: kc.optimizers.RK45(controller="P"), '`controller` is "I" or "PI"'),
        (lambda: kc.optimizers.RK45(max_rejections=-1), "whole number of at least 0"),
        (lambda: kc.optimizers.RK45(SCHEDULE), "adaptive=False` to follow the schedule"),
        (lambda: kc.optimizers.RK45("lion"), "none along a gradient flow"),
        (
            lambda: kc.optimizers.RK45(keras.optimizers.SGD(gradient_accumulation_steps=2)),
            "gradient_accumulation_steps=2",
        ),
        (lambda: kc.optimizers.RK45(0.1, adaptive=False, rtol=1e-4), r"not use \['rtol'\]"),
        (
            lambda: kc.optimizers.RungeKutta(0.1, RK4_TABLEAU, adaptive=True),
            "no embedded error to control it by",
        ),
        (lambda: kc.optimizers.RungeKutta(0.1, RK4_TABLEAU, atol=1e-5), "no embedded error, and"),
        (
            lambda: kc.optimizers.RungeKutta(0.1, HEUN_EULER, full_batch=True),
            "none at the new point",
        ),
    ],
)
def test_settings_without_a_meaning_are_told_the_mend(make, message):
    with pytest.raises(ValueError, match=message):
        make()


HEUN_EULER = kc.optimizers.Tableau(
    a=[[], [1.0]], b=[0.5, 0.5], order=2, embedded_weights=[1.0, 0.0], embedded_order=1
)


def test_a_tableau_whose_last_stage_is_not_the_first_is_controlled_too():
    model = walled(kc.optimizers.RungeKutta(1.0, HEUN_EULER))
    logs = fit_walled(model, epochs=40)
    np.testing.assert_allclose(model.get_weights()[0], 0.95, rtol=5e-3)
    assert logs["gradient_evaluations"][-1] == 2 * 40 + logs["rejected_tries"][-1]


def test_a_flow_that_rests_does_not_lose_the_step_size(float64):
    """With a gradient of zero the steps grow without end; they come back when there is one."""
    problem = PROBLEMS["net"]
    method = kc.optimizers.RK23(0.1)
    model = compiled(problem, method)
    method.learning_rate = 1e29
    weights = model.get_weights()
    model.set_weights([0 * w for w in weights])  # a stationary point of this net
    train(model, problem, 3)
    assert float(method.learning_rate) == 1e30
    model.set_weights(weights)
    logs = train(model, problem, 40)
    assert logs["step_size"][-1] > 0 and logs["loss"][-1] < logs["loss"][0]


@pytest.mark.parametrize(
    "rate",
    [
        0.0,
        -0.1,
        np.float32(0),
        float("nan"),
        math.inf,
        None,
        kc.optimizers.schedules.Warmup(0.1, 10),
    ],
)
def test_a_rate_that_is_no_step_size_is_refused(rate):
    """0 stood for a size to be chosen; a schedule that begins at 0 set it unawares."""
    method = kc.optimizers.RK45(0.1)
    with pytest.raises(ValueError, match=r"RK45 chooses its step sizes.*`adaptive=False`"):
        method.learning_rate = rate
    assert float(method.learning_rate.numpy()) == pytest.approx(0.1)
    fixed = kc.optimizers.RK45(0.1, adaptive=False)
    fixed.learning_rate = 0.0
    assert float(fixed.learning_rate.numpy()) == 0


def test_a_size_of_zero_that_was_assigned_stands_still_until_it_is_changed():
    problem = PROBLEMS["net"]
    model = compiled(problem, kc.optimizers.RK23(0.1))
    start = weights_of(model)
    model.optimizer.learning_rate.assign(0.0)
    logs = train(model, problem, 3)
    np.testing.assert_array_equal(weights_of(model), start)
    np.testing.assert_array_equal(logs["step_size"], [0, 0, 0])
    model.optimizer.learning_rate = 0.01
    assert train(model, problem, 1)["step_size"][0] == pytest.approx(0.01)


def test_a_first_size_that_is_set_is_not_chosen():
    model = compiled(PROBLEMS["net"], kc.optimizers.RK23())
    model.optimizer.learning_rate = 1e-3
    assert train(model, PROBLEMS["net"], 1)["step_size"][0] == pytest.approx(1e-3)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.7, 1e-3])
def test_the_rate_of_an_optimizer_is_the_number_that_was_written(rate):
    """In float32 0.05 is 0.0500000007: more than a `max_step` of 0.05."""
    method = kc.optimizers.RK23(keras.optimizers.SGD(rate), max_step=rate)
    assert method.get_config()["first_step"] == rate


def test_settings_from_numpy_are_the_numbers_that_were_written():
    small = np.float32(0.05)
    for made in (
        kc.optimizers.RK23(small, max_step=0.05),
        kc.optimizers.RK23(0.05, max_step=small),
        kc.optimizers.RK23(first_step=small, max_step=0.05, rtol=np.float32(1e-3)),
    ):
        config = json.loads(json.dumps(made.get_config(), allow_nan=False))
        assert config["first_step"] == config["max_step"] == 0.05
        assert config["rtol"] == 1e-3


def test_a_tolerance_below_rounding_is_raised_as_scipy_does(float64):
    with pytest.warns(UserWarning, match=r"`rtol` is 1e-15, below what float64 can resolve"):
        method = kc.optimizers.RK45(rtol=1e-15)
    with pytest.warns(UserWarning, match="rtol"):
        reference = RK45(lambda t, p: -p, 0.0, [1.0], 1.0, rtol=1e-15)
    assert method._control.rtol == pytest.approx(reference.rtol)


def test_a_tolerance_below_that_of_float32():
    with pytest.warns(UserWarning, match=r"1e-07.*float32.*1.2e-05 is used.*enable_float64"):
        kc.optimizers.RK45(rtol=1e-7)


def test_steps_far_below_the_rate_are_warned_of_once(recwarn):
    """Of a quadratic, whose largest curvature bounds the steps; not of a rate that it allows."""
    problem = PROBLEMS["quadratic"]
    for rate, expected in ((0.1, 0), (100.0, 1)):
        recwarn.clear()
        train(compiled(problem, kc.optimizers.RK23(rate)), problem, 5)
        found = [w for w in recwarn if "far below the rate" in str(w.message)]
        assert len(found) == expected
