"""Several steps in one training step: `max_steps` and `flow_time`, against SciPy's steps."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from scipy.integrate import RK23, solve_ivp

import keras_cool as kc
from support.gradient_flows import PROBLEMS, compiled, train, weights_of

NET = PROBLEMS["net"]


def flow_of(problem):
    return lambda t, p: -problem.gradient(p)


def evaluations(model):
    return int(model.optimizer.step_logs()["gradient_evaluations"])


@pytest.mark.parametrize(
    ("method", "name", "microbatch_size"),
    [("RK23", "net", None), ("RK45", "logistic", 7), ("RK45", "quadratic", None)],
)
def test_a_flow_time_is_that_of_solve_ivp(method, name, microbatch_size, float64):
    problem, time = PROBLEMS[name], 7.3
    reference = solve_ivp(flow_of(problem), (0, time), problem.start, method=method)
    solver = getattr(kc.optimizers, method)(full_batch=True, flow_time=time)
    model = compiled(problem, solver, microbatch_size=microbatch_size)
    logs = {key: values[0] for key, values in train(model, problem, 1).items()}
    np.testing.assert_allclose(weights_of(model), reference.y[:, -1], rtol=1e-9, atol=1e-11)
    assert logs["flow_time"] == time
    assert logs["accepted_steps"] == len(reference.t) - 1 > 5
    assert logs["gradient_evaluations"] == reference.nfev
    assert logs["step_size"] == pytest.approx(reference.t[-1] - reference.t[-2], rel=1e-5)
    assert (logs["unfinished_steps"], logs["skipped_steps"]) == (0, 0)
    assert int(solver.iterations) == 1
    if name == "quadratic":
        at_start = np.sum((problem.x @ problem.start) ** 2) / 2
        assert logs["loss"] == pytest.approx(at_start, rel=1e-9)


@pytest.mark.parametrize("by_tableau", [False, True])
def test_a_number_of_steps_is_as_many_of_scipy(by_tableau, float64):
    """Within a training step, and from one to the next; the learning rate sets the next size."""
    solver = RK23(flow_of(NET), 0.0, NET.start, t_bound=1e6, first_step=0.2)
    tableau = {"tableau": kc.optimizers.RK23.tableau} if by_tableau else {}
    kind = kc.optimizers.RungeKutta if by_tableau else kc.optimizers.RK23
    model = compiled(NET, kind(0.2, **tableau, full_batch=True, max_steps=4))
    for calls in (1, 2):
        for _ in range(4 * calls):
            solver.step()
        logs = train(model, NET, calls)
        np.testing.assert_allclose(weights_of(model), solver.y, rtol=1e-9, atol=1e-11)
        assert logs["step_size"][-1] == pytest.approx(solver.step_size, rel=1e-7)
        assert logs["flow_time"][-1] == pytest.approx(solver.t, rel=1e-9)
        assert logs["gradient_evaluations"][-1] == solver.nfev
    assert logs["rejected_tries"][-1] > 0
    assert logs["accepted_steps"].tolist() == [8, 12]
    model.optimizer.learning_rate = 1e-3
    again = RK23(flow_of(NET), 0.0, solver.y, t_bound=1e6, first_step=1e-3)
    for _ in range(4):
        again.step()
    train(model, NET, 1)
    np.testing.assert_allclose(weights_of(model), again.y, rtol=1e-9, atol=1e-11)


def test_a_step_that_is_cut_short_leaves_the_size_to_the_next_training_step(float64):
    solver = RK23(flow_of(NET), 0.0, NET.start, t_bound=1e6, first_step=0.01)
    for _ in range(5):
        solver.step()
    time, point = solver.t + 1e-6, solver.y
    solver.step()
    model = compiled(NET, kc.optimizers.RK23(0.01, full_batch=True, flow_time=time))
    logs = train(model, NET, 1)
    assert logs["step_size"][0] == pytest.approx(1e-6, rel=1e-4)
    np.testing.assert_allclose(weights_of(model), point - 1e-6 * NET.gradient(point), rtol=1e-9)
    assert float(model.optimizer.learning_rate) == pytest.approx(solver.step_size, rel=1e-7)
    # The next one begins with that size, and with the kept gradient.
    second = solve_ivp(
        flow_of(NET),
        (0, time),
        weights_of(model),
        method="RK23",
        first_step=float(model.optimizer.learning_rate),
    )
    before = evaluations(model)
    assert train(model, NET, 1)["flow_time"][0] == 2 * time
    np.testing.assert_allclose(weights_of(model), second.y[:, -1], rtol=1e-9, atol=1e-11)
    assert evaluations(model) - before == second.nfev - 1


def test_rounding_leaves_no_tiny_last_step():
    """SciPy takes an eleventh step of 1e-16 after ten of 0.1; 1 / 29 is rounded down."""
    for method, count in (("RK23", 29), ("RK45", 10)):
        solver = getattr(kc.optimizers, method)(
            1 / count, rtol=0.1, max_step=1 / count, full_batch=True, flow_time=1.0
        )
        logs = train(compiled(NET, solver), NET, 2)
        assert logs["accepted_steps"].tolist() == [count, 2 * count]
        assert logs["flow_time"].tolist() == [1, 2]


class Wall:
    """The loss `p - log(1 - p)`, which has no value from p = 1 on, at p = 0.9."""

    x, y, start = np.ones((4, 1)), np.full((4, 1), -20.0), np.array([0.9])

    @staticmethod
    def gradient(p):
        return 4 * (1 / (1 - p) - 20) if p < 1 else np.full_like(p, np.nan)

    @staticmethod
    def model():
        inputs = keras.Input((1,))
        return kc.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))

    @staticmethod
    def loss(y, p):
        return -ops.log(1 - p) + y * p


def test_a_step_that_stays_too_large_keeps_the_accepted_ones_before_it(float64):
    solver, accepted = RK23(flow_of(Wall), 0.0, Wall.start, t_bound=1e6, first_step=1e-4), []
    while solver.nfev == 1 + 3 * len(accepted):  # until a try is rejected
        accepted.append(solver.y)
        solver.step()
    count = len(accepted) - 1
    assert count > 1
    method = kc.optimizers.RK23(1e-4, max_rejections=0, full_batch=True, flow_time=9.0)
    model = compiled(Wall, method)
    with pytest.warns(UserWarning, match="did not reach flow_time=9.0 in 1 training steps"):
        logs = {key: values[0] for key, values in train(model, Wall, 1).items()}
    np.testing.assert_allclose(weights_of(model), accepted[-1], rtol=1e-9)
    counts = ("accepted_steps", "too_large_steps", "rejected_tries", "unfinished_steps")
    assert [logs[name] for name in counts] == [count, 1, 1, 1]
    assert logs["gradient_evaluations"] == 1 + 3 * (count + 1)
    assert (logs["skipped_steps"], int(method.iterations)) == (0, 1)
    assert logs["step_size"] > 0 and 0 < logs["flow_time"] < 9
    logs = train(model, Wall, 1)  # with the smaller size, and the kept gradient
    assert logs["accepted_steps"][0] > count
    assert logs["gradient_evaluations"][0] % 3 == 1


def test_where_no_step_is_accepted_the_training_step_is_skipped():
    model = compiled(Wall, kc.optimizers.RK23(10.0, max_rejections=1, full_batch=True, max_steps=3))
    logs = {key: values[0] for key, values in train(model, Wall, 1).items()}
    assert logs["too_large_steps"] == logs["skipped_steps"] == 1
    assert logs["accepted_steps"] == logs["step_size"] == logs["flow_time"] == 0
    assert logs["gradient_evaluations"] == 1 + 2 * 3
    assert weights_of(model) == np.float32(0.9)
    assert int(model.optimizer.iterations) == 0
    assert 10 * 0.2**2 - 1e-5 < float(model.optimizer.learning_rate) < 10 * 0.2
    assert train(model, Wall, 20)["skipped_steps"][-1] < 20
    np.testing.assert_allclose(weights_of(model), 0.95, rtol=5e-3)  # 1 / (1 - p) = 20
    labels, Wall.y = Wall.y, np.full((4, 1), np.nan)
    try:
        before = {name: int(value) for name, value in model.optimizer.step_logs().items()}
        logs = train(model, Wall, 1)
    finally:
        Wall.y = labels
    for name, more in {"skipped_steps": 1, "gradient_evaluations": 1, "rejected_tries": 0}.items():
        assert logs[name][0] == before[name] + more, name


def test_max_steps_ends_a_training_step_before_its_flow_time():
    model = compiled(NET, kc.optimizers.RK23(0.01, full_batch=True, flow_time=20.0, max_steps=5))
    with pytest.warns(UserWarning, match=r"in 2 training steps.*larger `max_steps` \(now 5"):
        logs = train(model, NET, 2)
    assert logs["accepted_steps"].tolist() == [5, 10]
    assert logs["unfinished_steps"].tolist() == [1, 2]
    assert logs["flow_time"][1] < 20
    assert kc.optimizers.RK23(full_batch=True, flow_time=1.0)._integration.max_steps == 1000


def test_random_layers_and_moving_statistics():
    """One vector field a training step, and one update of the state of layers."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    normalised = keras.layers.BatchNormalization(momentum=0.9)(inputs)
    frozen = keras.layers.Dense(4, activation="tanh", trainable=False)
    outputs = keras.layers.Dense(1)(keras.layers.Dropout(0.5)(frozen(normalised)))
    model = kc.Model(inputs, outputs)
    model.compile(kc.optimizers.RK23(0.05, full_batch=True, max_steps=6), loss="mse")
    kernel = ops.convert_to_numpy(frozen.kernel)
    logs = train(model, NET, 2)
    tries = 12 + logs["rejected_tries"][-1]
    assert logs["gradient_evaluations"][-1] == 2 + 3 * tries  # dropout has new masks: taken anew
    assert logs["rejected_tries"][-1] < 4  # other masks at each stage are no flow
    expected = (1 - 0.9**2) * NET.x.mean(axis=0)
    np.testing.assert_allclose(model.layers[1].moving_mean, expected, rtol=1e-4)
    np.testing.assert_array_equal(frozen.kernel, kernel)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_lower_precision(policy):
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((3,))
    model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
    solver = kc.optimizers.RK23(0.05, rtol=0.05, atol=0.05, full_batch=True, flow_time=1.0)
    model.compile(solver, loss="mse")
    x = NET.x.astype("float32")
    losses = model.fit(x, x[:, :1] + 2, batch_size=12, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < 0.2 * losses[0]


def test_one_step_is_what_it_was():
    """No variable and no entry in the logs more, over Adam too."""
    plain, one = kc.optimizers.RK23(0.1), kc.optimizers.RK23(0.1, max_steps=1)
    assert len(plain.variables) == len(one.variables)
    assert plain.step_logs().keys() == one.step_logs().keys()
    kc.optimizers.RK23("adam", max_steps=1)


def test_the_settings_are_in_the_configuration():
    method = kc.optimizers.RK45(
        full_batch=True, max_steps=np.int64(7), flow_time=np.float32(0.3), max_step=0.1
    )
    config = json.loads(json.dumps(keras.optimizers.serialize(method)))
    copy = keras.optimizers.deserialize(config)
    for name, value in {"max_steps": 7, "flow_time": 0.3, "max_step": 0.1}.items():
        assert copy.get_config()[name] == value
    assert copy.step_logs().keys() == method.step_logs().keys()


def late_momentum():
    method = kc.optimizers.RK45(0.1, full_batch=True, max_steps=2)
    method.inner_optimizer.weight_decay = 0.1
    method.build([keras.Variable([1.0])])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kc.optimizers.RK45(flow_time=1.0), r"flow_time=1.0.*full_batch=True\)"),
        (lambda: kc.optimizers.RK45(max_steps=3), "max_steps=3, full_batch=True"),
        (
            lambda: kc.optimizers.RK45("adam", full_batch=True, flow_time=1.0),
            "only with plain gradient descent: Adam",
        ),
        (
            lambda: kc.optimizers.RK45(
                keras.optimizers.SGD(0.1, momentum=0.9), full_batch=True, max_steps=2
            ),
            "only with plain gradient descent: SGD with momentum",
        ),
        (late_momentum, "only with plain gradient descent"),
        (lambda: kc.optimizers.RK45(full_batch=True, max_steps=0), "`max_steps` has to be"),
        (lambda: kc.optimizers.RK45(full_batch=True, max_steps=2.0), "`max_steps` has to be"),
        (lambda: kc.optimizers.RK45(full_batch=True, max_steps=True), "`max_steps` has to be"),
        (lambda: kc.optimizers.RK45(full_batch=True, flow_time=0), "`flow_time` has to be"),
        (lambda: kc.optimizers.RK45(full_batch=True, flow_time=np.inf), "`flow_time` has to be"),
        (lambda: kc.optimizers.RK45(0.1, adaptive=False, flow_time=1.0), r"use \['flow_time'\]"),
    ],
)
def test_what_has_no_meaning_is_told_the_mend(make, message):
    with pytest.raises(ValueError, match=message):
        make()
