"""`examples/sam.py`: its wrong labels, its counts, what it prints and draws, and its errors."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from matplotlib import image

from program.data import load_digits
from support.examples import printed_and_computed, script

NAMES = ["Adam(0.001)", "Adam(0.0001)", "SAM(Adam(0.001))"]
STEPS = 23  # 1437 images in batches of 64


@pytest.fixture(scope="module")
def example():
    return script("sam")


def run_script(example, *options):
    """Runs the script; gives what it printed and the curves that it drew."""
    printed, curves = printed_and_computed(example, "train_all", options)
    return SimpleNamespace(printed=printed, curves=curves)


@pytest.fixture(scope="module")
def run(example, tmp_path_factory):
    """Two epochs of the script."""
    output = tmp_path_factory.mktemp("sam") / "not" / "there" / "yet.png"
    found = run_script(example, "--epochs=2", f"--output={output}")
    return SimpleNamespace(output=output, **vars(found))


def test_so_many_labels_are_wrong_and_only_those(example):
    data = example.with_wrong_labels(load_digits(), 3)
    assert np.array_equal(data.y_noisy != data.y_train, data.wrong)
    assert data.wrong.sum() == round(0.3 * 1437)
    assert set(np.unique(data.y_noisy)) == set(range(10))
    shifts = (data.y_noisy - data.y_train)[data.wrong] % 10
    assert np.bincount(shifts, minlength=10)[1:].min() > 25  # of 431 / 9 = 48
    other = example.with_wrong_labels(load_digits(), 4)
    assert not np.array_equal(other.wrong, data.wrong)


def test_all_runs_have_the_same_number_of_gradients(run):
    assert list(run.curves) == NAMES
    for name, curve in run.curves.items():
        a_step, epochs = (2, 2) if "SAM" in name else (1, 4)
        assert curve.evaluations == [a_step * STEPS * (i + 1) for i in range(epochs)]


def test_the_digits_are_learned(run):
    for curve in (run.curves[NAMES[0]], run.curves[NAMES[2]]):
        assert curve.test[-1] > 0.3
        assert curve.memorised[-1] < 0.3


def test_the_table_has_the_numbers(run):
    lines = run.printed.splitlines()
    assert len(lines) == 6
    for line, (name, curve) in zip(lines[1:4], run.curves.items(), strict=True):
        gradients, test, best, memorised = line.removeprefix(name).rstrip("*").split()
        assert int(gradients) == 4 * STEPS
        assert float(test) == pytest.approx(curve.test[-1], abs=5e-4)
        assert float(best) == pytest.approx(max(curve.test), abs=5e-4)
        assert float(memorised.rstrip("%")) / 100 == pytest.approx(curve.memorised[-1], abs=5e-4)


def test_the_picture_shows_every_run_on_both_sides(run):
    assert [p.name for p in run.output.parent.iterdir()] == ["yet.png"]
    assert str(run.output) in run.printed
    pixels = image.imread(run.output)[..., :3]
    assert pixels.shape[1] > pixels.shape[0] > 300
    for color in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x2C, 0xA0, 0x2C)):
        near = np.all(np.abs(pixels - np.array(color) / 255) < 0.02, axis=-1)
        for half in (near[:, : near.shape[1] // 2], near[:, near.shape[1] // 2 :]):
            assert half.sum() > 30


def test_the_interval_and_adaptive_reach_the_optimizer(example, tmp_path):
    output = f"--output={tmp_path / 'sam.png'}"
    found = run_script(example, "--epochs=1", "--interval=4", "--adaptive", output)
    name, curve = list(found.curves.items())[-1]
    assert name == "ASAM(Adam(0.001))"
    assert curve.evaluations == [STEPS + 6]  # a second one at steps 0, 4, ..., 20
    optimizer = curve.model.optimizer
    assert (optimizer.interval, optimizer.adaptive, optimizer.rho) == (4, True, 5.0)


def test_the_seed_decides_the_labels_and_the_weights(example):
    def first_epoch(seed):
        data = example.with_wrong_labels(load_digits(), seed)
        return example.train(keras.optimizers.Adam(1e-3), 1, data, seed).test

    one = first_epoch(1)
    assert first_epoch(1) == one
    assert first_epoch(2) != one


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--rho=0", "is not a finite number above 0"),
        ("--rho=wide", "is not a finite number above 0"),
        ("--interval=0", "is not a whole number of at least 1"),
        ("--epochs=1.5", "is not a whole number of at least 1"),
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
    monkeypatch.setattr(example, "train_all", lambda *_: run.curves)
    with pytest.raises(SystemExit) as stopped:
        example.main(["--output", str(run.output / "below.png")])
    assert stopped.value.code == 2
    assert "give a place that can be written" in capsys.readouterr().err
