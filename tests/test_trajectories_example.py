"""`examples/trajectories.py`: its paths against SciPy's flow, what it writes, and its errors."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from matplotlib import image
from scipy.integrate import solve_ivp
from scipy.optimize import approx_fprime

from support.examples import printed_and_computed, script

STEP, STEPS, CURVATURE, RTOL = 0.09, 8, 20.0, 1e-4
TIME = STEP * STEPS
NAMES = ["Euler (SGD)", "Heun", "RK4", "RK45"]


@pytest.fixture(scope="module")
def example():
    return script("trajectories")


@pytest.fixture(scope="module")
def run(example, tmp_path_factory):
    """A short run of the script, with the paths that it drew."""
    output = tmp_path_factory.mktemp("trajectories") / "not" / "there" / "yet.png"
    options = {"step-size": STEP, "steps": STEPS, "rtol": RTOL, "output": output}
    argv = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    printed, paths = printed_and_computed(example, "follow_all", argv)
    same_size, same_evaluations = ({p.name: p for p in paths} for paths in paths.values())
    return SimpleNamespace(
        output=output,
        printed=printed,
        same_size=same_size,
        same_evaluations=same_evaluations,
    )


def downhill(point):
    """The direction of the flow by finite differences of the loss as the docstring states it."""
    loss = lambda p: CURVATURE / 2 * (np.hypot(*p) - 1) ** 2 - p[0]  # noqa: E731
    return -approx_fprime(point, loss, 1e-7)


def scipy_flow(start, times):
    return solve_ivp(
        lambda t, p: downhill(p), (0, times[-1]), start, t_eval=times, rtol=1e-8, atol=1e-10
    ).y.T


def test_rk45_follows_the_flow_to_its_end(example, run):
    path = run.same_size["RK45"]
    assert path.times[-1] == pytest.approx(TIME, rel=1e-5)
    expected = scipy_flow(example.START, path.times)
    assert np.linalg.norm(expected[-1] - expected[0]) > 0.5  # a way that can be missed
    np.testing.assert_allclose(path.points, expected, atol=5 * RTOL)


def test_euler_is_gradient_descent_and_overshoots_at_each_step(example, run):
    expected = [example.START]
    for _ in range(STEPS):
        expected.append(expected[-1] + STEP * downhill(expected[-1]))
    points = run.same_size["Euler (SGD)"].points
    np.testing.assert_allclose(points, expected, atol=1e-4)
    sides = np.sign(np.hypot(*points.T) - 1)
    assert sides.tolist() == [(-1) ** i for i in range(STEPS + 1)]


def test_the_order_shows_at_the_same_step_size(example, run):
    end = scipy_flow(example.START, [TIME])[-1]
    distances = [np.linalg.norm(run.same_size[name].points[-1] - end) for name in NAMES]
    assert distances[0] > 10 * distances[2] > 100 * distances[3]


def test_gradients_are_counted_and_made_equal(run):
    assert list(run.same_size) == list(run.same_evaluations) == NAMES
    counts = [run.same_size[name].evaluations for name in NAMES]
    assert counts[:3] == [STEPS, 2 * STEPS, 4 * STEPS]
    assert counts[3] >= 6 * (len(run.same_size["RK45"].points) - 1) + 1
    for name, steps in zip(NAMES, (4 * STEPS, 2 * STEPS, STEPS)):
        path = run.same_evaluations[name]
        assert (len(path.points) - 1, path.evaluations) == (steps, 4 * STEPS)
        assert path.times[-1] == pytest.approx(TIME)


def test_the_table_has_the_distances(example, run):
    end = scipy_flow(example.START, [TIME])[-1]
    rows = [line.rsplit(maxsplit=3) for line in run.printed.splitlines()[1:-1]]
    paths = [*run.same_size.values(), *run.same_evaluations.values()]
    for (label, steps, gradients, distance), path in zip(rows, paths, strict=True):
        assert label.endswith(path.name)
        assert (int(steps), int(gradients)) == (len(path.points) - 1, path.evaluations)
        expected = np.linalg.norm(path.points[-1] - end)
        assert float(distance) == pytest.approx(expected, rel=1e-2, abs=1e-5)


def test_the_picture_shows_every_method(run):
    assert [p.name for p in run.output.parent.iterdir()] == ["yet.png"]
    assert str(run.output) in run.printed
    pixels = image.imread(run.output)[..., :3]
    for color in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x2C, 0xA0, 0x2C), (0xD6, 0x27, 0x28)):
        near = np.all(np.abs(pixels - np.array(color) / 255) < 0.02, axis=-1)
        for half in (near[:, : near.shape[1] // 2], near[:, near.shape[1] // 2 :]):
            assert half.sum() > 100


def test_the_layer_has_the_loss_of_the_contours(example):
    layer = example.Valley(CURVATURE)
    layer.build((1, 1))
    for point in ([0.3, -1.2], [2.0, 0.1]):
        layer.point.assign(point)
        value = keras.ops.convert_to_numpy(layer(np.ones((1, 1))))
        np.testing.assert_allclose(value, [[example.valley(*point, CURVATURE)]], rtol=1e-5)


@pytest.mark.parametrize(
    ("option", "mends"),
    [
        ("--step-size=0", "is not a finite number above 0"),
        ("--step-size=nan", "is not a finite number above 0"),
        ("--curvature=steep", "is not a finite number above 0"),
        ("--rtol=-1", "is not a finite number above 0"),
        ("--steps=0", "is not a whole number of at least 1"),
        ("--steps=1.5", "is not a whole number of at least 1"),
        ("--output=picture", "is not the path of a .png file"),
        ("--output=.", "is not the path of a .png file"),
    ],
)
def test_unfit_arguments_are_refused(example, capsys, option, mends):
    with pytest.raises(SystemExit) as stopped:
        example.main([option])
    assert stopped.value.code == 2
    assert mends in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused(example, run, capsys, monkeypatch):
    paths = [list(paths.values()) for paths in (run.same_size, run.same_evaluations)]
    titles = (example.EQUAL_STEPS, example.EQUAL_EVALUATIONS)
    monkeypatch.setattr(example, "follow_all", lambda *_: dict(zip(titles, paths)))
    with pytest.raises(SystemExit) as stopped:
        example.main(["--output", str(run.output / "below.png")])
    assert stopped.value.code == 2
    assert "give a place that can be written" in capsys.readouterr().err
