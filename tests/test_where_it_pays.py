"""The benchmarks of `docs/where-it-pays.md` count, tune and report as they say, on tiny tasks."""

import csv
import math

import averaging
import keras
import numpy as np
import pytest
import sharpness

from harness import wrong_labels
from harness.comparison import compare
from harness.contenders import CONTENDERS
from harness.descents import poisson
from harness.games import GAMES, constrained_least_squares
from harness.recorded_training import FORWARD_PASS, Trainable
from harness.tasks import Net, Task
from harness.tuning import Tuning, best_so_far, evaluations_to
from harness.where_it_pays_report import plot, table, verdict, write_curves

CONTENDER = {contender.name: contender for contender in CONTENDERS}
X = np.diag([1.0, 2.0]).astype("float32")
START = np.array([[1.0], [-1.0]], "float32")


def tiny_task(**kwargs):
    def model():
        inputs = keras.Input((2,))
        return Net(inputs, keras.layers.Dense(1, use_bias=False)(inputs))

    y = np.zeros((2, 1), "float32")
    return Task(
        "tiny", model, X, y, 12, start=lambda model, seed: [START / (1 + seed % 7)], **kwargs
    )


def losses_of_gradient_descent(rate, steps):
    p, losses = START.astype("float64"), []
    for _ in range(steps):
        losses.append(np.mean((X @ p) ** 2))
        p = p - rate * X.T @ (X @ p)
    return losses


def test_a_curve_is_the_loss_before_each_step_and_every_run_starts_anew():
    trainable = Trainable(tiny_task(), keras.optimizers.SGD(0.1))
    for _ in range(2):
        curve = trainable.run(seed=0, budget=5, rate=0.2)
        assert curve.spent == [0, 1, 2, 3, 4, 5]
        np.testing.assert_allclose(curve.values, losses_of_gradient_descent(0.2, 6), rtol=1e-5)
    assert trainable.run(seed=1, budget=5, rate=0.2).values[0] == curve.values[0] / 4


@pytest.mark.parametrize(
    ("name", "each"),
    [
        ("Heun", 2),
        ("RK45", 6 + FORWARD_PASS),
        ("Extragradient over Adam", 2),
        ("Optimistic", 1),
    ],
)
def test_each_gradient_of_a_step_counts_and_a_forward_pass_a_third(name, each):
    task, contender = tiny_task(), CONTENDER[name]
    setting = contender.settings(task)[0]
    optimizer = contender.optimizer(task, setting)
    trainable = Trainable(task, optimizer, contender.full_batch(task))
    curve = trainable.run(0, 30, 0.01, contender.evaluations(setting))
    first = curve.spent[1] - each  # RK45's first gradient, and the rejected tries of the first step
    assert first == pytest.approx(1 if name == "RK45" else 0)
    np.testing.assert_allclose(np.diff(curve.spent)[1:], each)
    assert curve.spent[-1] <= 30 < curve.evaluations


def test_on_mini_batches_the_loss_of_all_data_is_taken_and_the_accuracy_on_others():
    task = tiny_task(batch_size=1, epochs=3, metrics=("accuracy",), held_out=(X, X[:, :1]))
    curve = Trainable(task, keras.optimizers.SGD(0.1)).run(seed=0, budget=12)
    assert curve.spent == [0, 4, 8, 12]
    assert curve.values[0] == pytest.approx(2.5)
    assert len(curve.accuracies) == 4


def test_a_run_that_diverges_is_given_up():
    curve = Trainable(tiny_task(), keras.optimizers.SGD(0.1)).run(seed=0, budget=500, rate=1e3)
    assert len(curve.values) < 20
    assert math.isinf(best_so_far(curve, 500)) and math.isinf(evaluations_to(curve, 0.0))


def test_a_run_whose_first_step_is_skipped_keeps_nothing_of_the_run_before():
    optimizer = CONTENDER["Chebyshev"].optimizer(tiny_task(), {"stages": 20})
    trainable = Trainable(tiny_task(), optimizer)
    assert not trainable.run(seed=0, budget=40, rate=0.1, evaluations_a_step=20).diverged()
    assert trainable.run(seed=0, budget=40, rate=1e9, evaluations_a_step=20).diverged()


def test_the_best_rate_is_found_beyond_the_grid_and_between_its_rates():
    contender = CONTENDER["SGD"]._replace(rates=[0.01, 0.0025])
    tuning = Tuning(tiny_task(), contender, 12)
    tuning.tune(seeds=(0,))
    # At 0.4 the curvatures 1 and 4 shrink alike, by 0.6 a step, and nothing does so faster.
    assert tuning.best_at(12).rate == pytest.approx(0.32)


def test_a_physics_informed_net_knows_its_second_derivative():
    model = poisson().model()
    for v, value in zip(model.trainable_variables, poisson().start(model, 0)):
        v.assign(value)

    def u(x):
        h = x
        for layer in model.hidden:
            kernel, bias = (np.asarray(w, "float64") for w in layer.get_weights())
            h = np.tanh(h @ kernel + bias)
        kernel, bias = (np.asarray(w, "float64") for w in model.last.get_weights())
        return (1 - x * x) * (h @ kernel + bias)

    x, h = np.linspace(-0.9, 0.9, 7)[:, None], 1e-4
    expected = (u(x + h) - 2 * u(x) + u(x - h)) / h**2
    predicted = keras.ops.convert_to_numpy(model(x.astype("float32")))
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)


def test_multipliers_ascend_and_weights_descend():
    task = constrained_least_squares()
    trainable = Trainable(task, keras.optimizers.SGD(0.1))
    curve = trainable.run(seed=0, budget=10, rate=0.02)
    model = trainable.model
    x, y, c, d, solution = (
        np.asarray(keras.ops.convert_to_numpy(a), "float64")
        for a in (task.x, task.y, model.constraints, model.values, model.solution)
    )
    w, multipliers = (a.astype("float64") for a in task.start(model, 0))
    expected = []
    for _ in range(11):
        expected.append(np.mean((w - solution) ** 2))
        gradient = 2 * x.T @ (x @ w - y) / len(x) + c.T @ multipliers
        w, multipliers = w - 0.02 * gradient, multipliers + 0.02 * (c @ w - d)
    np.testing.assert_allclose(curve.values, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["wasserstein_gan", "gan_on_a_ring"])
def test_an_adversarial_task_measures_a_distance_that_training_changes(name):
    curve = Trainable(GAMES[name](), keras.optimizers.SGD(0.1)).run(seed=0, budget=3, rate=0.1)
    assert curve.spent == [0, 1, 2, 3]
    assert min(curve.values) > 0 and len(set(curve.values)) == 4


def test_the_report_says_who_needed_how_many(tmp_path):
    contenders = [CONTENDER["SGD"], CONTENDER["Heun"]]
    result = compare(tiny_task(), contenders, seeds=[1, 2, 3], quick=True, budget=12)
    sgd, heun = (one.evaluations(result.targets)[0] for one in result.results)
    ratio = np.median(sgd) / np.median(heun)
    assert f"early target: SGD takes {ratio:.2f} times as many as Heun" in verdict(result)
    assert "| Heun | rate" in table(result)
    write_curves(result, tmp_path / "where_it_pays-tiny.csv")
    rows = list(csv.DictReader((tmp_path / "where_it_pays-tiny.csv").open()))
    assert {row["contender"] for row in rows} == {"SGD", "Heun"}
    assert float(rows[0]["median"]) == pytest.approx(2.5 / 9, rel=1e-3)  # the middle seed
    tasks = {"tiny": tiny_task, "not_run": tiny_task}
    assert plot(tasks, tmp_path, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert not plot({"not_run": tiny_task}, tmp_path, tmp_path / "none.png")


def test_methods_for_games_are_left_out_of_descents():
    contenders = [CONTENDER["SGD"], CONTENDER["Optimistic"]]
    for task, names in ((tiny_task(), ["SGD"]), (tiny_task(game=True), ["SGD", "Optimistic"])):
        result = compare(task, contenders, seeds=[1], quick=True, budget=4)
        assert [one.contender.name for one in result.results] == names


def test_a_seed_says_which_labels_are_wrong_and_no_label_of_the_other_parts_is():
    parts, others = (wrong_labels.load_parts(seed, 0.3) for seed in (0, 1))
    training = parts.y[: wrong_labels.TRAINING]
    assert np.sum(parts.told != training) == round(0.3 * wrong_labels.TRAINING)
    assert np.all(np.bincount(parts.told[parts.told != training]) > 0)
    assert np.any(parts.told != others.told)
    np.testing.assert_array_equal(parts.y, others.y)
    np.testing.assert_array_equal(wrong_labels.load_parts(0, 0.0).told, training)
    assert parts.validation.start == len(training) and parts.validation.stop == parts.test.start
    assert parts.test.stop == len(parts.x)


def test_a_net_is_trained_again_from_the_start_of_each_seed():
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    trainable = wrong_labels.Trainable(optimizer, 2)
    first, other, again = (trainable.run(seed, 0.3) for seed in (0, 1, 0))
    assert first == again != other
    assert first.evaluations == 2 * wrong_labels.STEPS_AN_EPOCH
    assert len(first.test) == 3 and first.test[-1] == first.test[-2]
    best = int(np.argmax(first.validation))
    assert first.at_the_best_epoch() == first.test[best]


@pytest.mark.parametrize("script", [sharpness, averaging])
def test_a_quick_run_writes_a_table(script, monkeypatch, tmp_path):
    if script is sharpness:
        monkeypatch.setattr(script, "KINDS", [script.KINDS[3], script.KINDS[4]])
        rows, words = 2 * 3, "SAM per part of 16 | rate 0.063, rho 0.1 | 68 | 136 |"
    else:
        monkeypatch.setattr(script, "CONTENDERS", script.CONTENDERS[2::3])
        rows, words = 2 * 2, "WeightAveraging from 75% on | rate 0.0632 |"
    path = tmp_path / "table.md"
    monkeypatch.setattr("sys.argv", [script.__file__, "--quick", "--output", str(path)])
    script.main()
    text = path.read_text()
    assert f"python benchmarks/{script.__name__}.py" in text and "--quick`" in text
    assert words in text
    assert text.count("\n| ") == rows + 2 * 2  # and the heads of two tables
