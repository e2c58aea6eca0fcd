"""`examples/contrastive.py`: its loss, its views, what it prints and draws, and its errors."""

import contextlib
import io
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from matplotlib import image

from support.examples import script


@pytest.fixture(scope="module")
def example():
    return script("contrastive")


@pytest.fixture(scope="module")
def run(example, tmp_path_factory):
    """Two epochs of the script, with batches of 720 in two micro-batches."""
    output = tmp_path_factory.mktemp("contrastive") / "not" / "there" / "yet.png"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        options = ["--epochs=2", "--batch=720", "--microbatch=360", f"--output={output}"]
        assert example.main(options) == 0
    return SimpleNamespace(output=output, printed=printed.getvalue())


def test_the_loss_is_that_of_numpy(example):
    y_pred = np.random.default_rng(0).normal(size=(5, 8))
    views = np.concatenate([y_pred[:, :4], y_pred[:, 4:]])
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    similarity = np.exp(views @ views.T / 0.2)
    np.fill_diagonal(similarity, 0)
    loss = -np.log(np.diag(np.roll(similarity, 5, axis=1)) / similarity.sum(axis=1))
    found = float(example.InfoNCE(0.2)(np.zeros((5, 1)), y_pred.astype("float32")))
    assert found == pytest.approx(loss.mean(), rel=1e-5)


def test_views_differ_and_are_linear_in_the_image(example):
    keras.utils.set_random_seed(0)
    distort = example.RandomDistortion(ways=16)
    images = np.tile(np.random.default_rng(0).random((1, 8, 8)), (40, 1, 1)).astype("float32")
    views = keras.ops.convert_to_numpy(distort(images))
    known = (distort.matrices @ images[0].reshape(64)).reshape(-1, 8, 8)
    found = {int(np.argmin(np.abs(known - view).sum(axis=(1, 2)))) for view in views}
    assert len(found) > 8
    for view in views:
        assert np.abs(known - view).max(axis=(1, 2)).min() < 1e-5


def test_the_loss_is_of_the_whole_batch_in_one_run_alone(run):
    lines = run.printed.splitlines()
    # By chance a view is found as one among 2 n - 1 others: log(719) = 6.6 and log(1439) = 7.3.
    starts = [float(line.partition("goes from ")[2].split()[0]) for line in lines[:2]]
    assert lines[0].startswith("loss of 360 each")
    assert lines[1].startswith("loss of 720, 360 at a time")
    assert starts[1] - starts[0] == pytest.approx(np.log(2), abs=0.2)


def test_the_table_has_accuracies(run):
    rows = run.printed.splitlines()[3:6]
    for row, name in zip(rows, ("pixels", "loss of 360", "loss of 720"), strict=True):
        few, every = map(float, row.split()[-2:])
        assert row.startswith(name)
        assert 0.5 < few < every <= 1


def test_the_picture_shows_all_digits(run):
    assert str(run.output) in run.printed
    pixels = image.imread(run.output)[..., :3]
    assert pixels.shape[1] > 2 * pixels.shape[0] > 300
    for color in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x17, 0xBE, 0xCF)):
        near = np.all(np.abs(pixels - np.array(color) / 255) < 0.02, axis=-1)
        for third in np.array_split(near, 3, axis=1):
            assert third.sum() > 30


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--batch=0"], "is not a whole number of at least 1"),
        (["--microbatch=2048"], "is at most --batch"),
        (["--temperature=0"], "is not a finite number above 0"),
        (["--output=picture"], "is not the path of a .png file"),
    ],
)
def test_unfit_arguments_are_refused(example, capsys, options, says):
    with pytest.raises(SystemExit) as stopped:
        example.main(options)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
