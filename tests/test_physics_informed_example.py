"""`examples/physics_informed.py`: its equation, counts, table, picture and errors."""

from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops
from matplotlib import image

from support.examples import printed_and_computed, script

NAMES = ["Adam", "Adam, then LBFGS", "Adam, then SSBroyden"]


@pytest.fixture(scope="module")
def example():
    return script("physics_informed")


def run_script(example, *options):
    """Runs the script; gives what it printed and the runs that it drew."""
    printed, runs = printed_and_computed(example, "train_all", options)
    return SimpleNamespace(printed=printed, runs=runs)


@pytest.fixture(scope="module")
def run(example, tmp_path_factory):
    """Some hundred evaluations of the script."""
    output = tmp_path_factory.mktemp("physics") / "not" / "there" / "yet.png"
    found = run_script(example, "--adam=30", "--evaluations=150", f"--output={output}")
    return SimpleNamespace(output=output, **vars(found))


def test_the_laplacian_of_a_polynomial(example):
    points = np.random.default_rng(0).uniform(size=(5, 2)).astype("float32")

    def function(p):
        return p[:, 0] ** 3 * p[:, 1] + p[:, 1] ** 2

    found = example.laplacian(function, ops.convert_to_tensor(points))
    expected = 6 * points[:, 0] * points[:, 1] + 2
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-5)


def test_the_source_is_that_of_the_solution(example):
    # By central differences, in float64.
    points, h = np.random.default_rng(0).uniform(0.1, 0.9, size=(5, 2)), 1e-4
    around = points + h * np.array([[[1, 0]], [[-1, 0]], [[0, 1]], [[0, -1]]])
    laplacian = sum(example.solution(p) for p in around) - 4 * example.solution(points)
    source = ops.convert_to_numpy(example.source(ops.convert_to_tensor(points)))
    np.testing.assert_allclose(source, -laplacian / h**2, rtol=1e-4)


def test_the_points_of_the_boundary_are_on_it(example, monkeypatch):
    seen = []
    monkeypatch.setattr(example, "fit", lambda model, *rest: seen.append(model) or rest[-1])
    example.train(None, 1, 1, seed=3)
    boundary = seen[0].boundary
    assert boundary.shape == (200, 2)
    sides = [boundary[:, 0] == 0, boundary[:, 0] == 1, boundary[:, 1] == 0, boundary[:, 1] == 1]
    assert [side.sum() for side in sides] == [50] * 4
    assert np.any(sides, axis=0).all()


def test_all_runs_have_about_the_same_number_of_gradients(run):
    assert list(run.runs) == NAMES
    for one in run.runs.values():
        assert 150 <= one.evaluations[-1] < 150 + 40  # the last step is finished
        assert len(one.losses) == len(one.evaluations)
        assert one.evaluations == sorted(one.evaluations)


def test_quasi_newton_methods_go_lower_than_adam(run):
    adam, lbfgs, broyden = run.runs.values()
    assert lbfgs.losses[-1] < adam.losses[-1] / 2
    assert broyden.losses[-1] < adam.losses[-1] / 2
    assert lbfgs.losses[29] == pytest.approx(broyden.losses[29], rel=1e-3)  # Adam, in both


def test_the_error_is_relative(example, run):
    one = run.runs["Adam"]
    assert one._replace(values=example.solution(example.GRID)).error == 0
    assert one._replace(values=1.1 * example.solution(example.GRID)).error == pytest.approx(0.1)


def test_the_table_has_the_numbers(run):
    lines = run.printed.splitlines()
    of_table = [line for line in lines if line.startswith("Adam")]
    for line, (name, one) in zip(of_table, run.runs.items(), strict=True):
        gradients, loss, error = line.removeprefix(name).split()
        assert int(gradients) == one.evaluations[-1]
        assert float(loss) == pytest.approx(one.losses[-1], rel=0.06)
        assert float(error) == pytest.approx(one.error, rel=0.06)


def test_the_picture_shows_every_run(run):
    assert [p.name for p in run.output.parent.iterdir()] == ["yet.png"]
    assert str(run.output) in run.printed
    pixels = image.imread(run.output)[..., :3]
    assert pixels.shape[1] > pixels.shape[0] > 300
    right = pixels[:, 2 * pixels.shape[1] // 3 :]
    for color in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x2C, 0xA0, 0x2C)):
        near = np.all(np.abs(right - np.array(color) / 255) < 0.02, axis=-1)
        assert near.sum() > 30


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--evaluations=0", "is not a whole number of at least 1"),
        ("--adam=1.5", "is not a whole number of at least 1"),
        ("--adam=1500", "give less than --evaluations"),
        ("--seed=-1", "is not a whole number from 0"),
        ("--output=picture", "is not the path of a .png file"),
    ],
)
def test_unfit_arguments_are_refused(example, capsys, option, says):
    with pytest.raises(SystemExit) as stopped:
        example.main([option])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused(example, run, capsys, monkeypatch):
    monkeypatch.setattr(example, "train_all", lambda *_: run.runs)
    with pytest.raises(SystemExit) as stopped:
        example.main(["--output", str(run.output / "below.png")])
    assert stopped.value.code == 2
    assert "give a place that can be written" in capsys.readouterr().err
