"""`examples/cyclegan.py`: its losses and step, what it prints and draws, and its errors."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from matplotlib import image

from support.examples import (
    assert_alike,
    printed_and_computed,
    script,
    step_by_hand,
    weights_after,
)

RNG = np.random.default_rng(0)
A = RNG.normal(size=(40, 2)).astype("float32")
B = (RNG.normal(size=(40, 2)) @ RNG.normal(size=(2, 2)) + 1).astype("float32")
RATES = (0.02, 0.03, 0.04, 0.05)  # of the four nets, each its own


@pytest.fixture(scope="module")
def example():
    return script("cyclegan")


@pytest.fixture(scope="module")
def images(example):
    return example.load_images()


def with_nets(kind, nets, **compiled):
    optimizer, *others = [keras.optimizers.SGD(rate) for rate in RATES]
    gan = kind(*nets, others, cycle=3.0)
    gan.compile(optimizer, **compiled)
    gan.optimizer.build(gan.to_b.trainable_variables)
    return gan


def linear_gan(example):
    """Generators and critics of one linear layer each."""
    nets = [
        keras.Sequential([keras.Input((2,)), layers.Dense(outputs)]) for outputs in (2, 2, 1, 1)
    ]
    return with_nets(example.CycleGAN, nets)


class InNumPy:
    """The losses of `linear_gan` in float64; their gradients by central differences."""

    def generators(self, weights, a, b):
        to_b, to_a, critic_b, critic_a = self.nets(weights)
        cycle = np.abs(to_a(to_b(a)) - a).mean() + np.abs(to_b(to_a(b)) - b).mean()
        fooling = np.mean((critic_b(to_b(a)) - 1) ** 2) + np.mean((critic_a(to_a(b)) - 1) ** 2)
        return fooling + 3 * cycle

    def critic_of_b(self, weights, a, b):
        to_b, _, critic_b, _ = self.nets(weights)
        return np.mean((critic_b(b) - 1) ** 2) + np.mean(critic_b(to_b(a)) ** 2)

    def critic_of_a(self, weights, a, b):
        _, to_a, _, critic_a = self.nets(weights)
        return np.mean((critic_a(a) - 1) ** 2) + np.mean(critic_a(to_a(b)) ** 2)

    def nets(self, weights):
        pairs = zip(weights[::2], weights[1::2])
        return [lambda x, kernel=kernel, bias=bias: x @ kernel + bias for kernel, bias in pairs]

    def step(self, weights, a, b):
        losses = (self.generators, self.generators, self.critic_of_b, self.critic_of_a)
        moved = [w.copy() for w in weights]
        for i, w in enumerate(weights):
            for at in np.ndindex(w.shape):
                slope = self.slope(losses[i // 2], weights, w, at, a, b)
                moved[i][at] -= RATES[i // 2] * slope
        return moved

    def slope(self, loss, weights, w, at, a, b, distance=1e-6):
        before, found = w[at], []
        for sign in (1, -1):
            w[at] = before + sign * distance
            found.append(loss(weights, a, b))
        w[at] = before
        return (found[0] - found[1]) / (2 * distance)


def test_twenty_steps_of_four_optimizers_are_those_of_numpy(example):
    gan = linear_gan(example)
    start = [ops.convert_to_numpy(v).astype("float64") for v in gan.trainable_variables]
    expected, reference = start, InNumPy()
    for i in range(20):
        part = slice(8 * (i % 5), 8 * (i % 5) + 8)
        expected = reference.step(expected, A[part].astype("float64"), B[part].astype("float64"))
    found = weights_after(gan, *(np.concatenate(4 * [x]) for x in (A, B)), steps=20)
    assert_alike(found, expected, rtol=1e-4)
    for before, after in zip(start, expected):
        assert np.abs(after - before).max() > 0.02


def test_the_cycle_is_logged(example):
    gan = linear_gan(example)
    to_b, to_a, *_ = InNumPy().nets([ops.convert_to_numpy(v) for v in gan.trainable_variables])
    logs = gan.train_on_batch(A, B, return_dict=True)
    expected = np.abs(to_a(to_b(A)) - A).mean() + np.abs(to_b(to_a(B)) - B).mean()
    assert float(logs["cycle"]) == pytest.approx(expected, rel=1e-4)


def test_steps_by_hand_lead_to_the_same_weights(example, images):
    def trained(kind, **compiled):
        keras.utils.set_random_seed(1)
        nets = [example.build_generator() for _ in range(2)]
        nets += [example.build_critic() for _ in range(2)]
        gan = with_nets(kind, nets, **compiled)
        return weights_after(gan, images.filled, images.outlines)

    expected = trained(step_by_hand("cyclegan"))
    for microbatch_size in (None, 4):
        found = trained(example.CycleGAN, microbatch_size=microbatch_size)
        assert_alike(found, expected, rtol=1e-5)


def test_each_net_has_its_optimizer(example):
    gan = linear_gan(example)
    weights_after(gan, A, B, steps=3)
    optimizers = (gan.optimizer, *gan.other_optimizers)
    assert [int(ops.convert_to_numpy(o.iterations)) for o in optimizers] == [3, 3, 3, 3]


def test_outlines_lie_around_the_digits(example, images):
    assert images.filled.shape[1:] == images.outlines.shape[1:] == (20, 20, 1)
    assert len(images.filled_test) == len(images.outlines_test) == 360
    for part in images:
        assert part.min() == 0 and part.max() == pytest.approx(1)
    apart = images.filled_test * images.outlines_test
    assert apart.max() <= 0.25 + 1e-6  # x (1 - x) at most, for a pixel that is half ink
    for filled, outlines in zip(images.filled_test, images.outlines_test):
        ink = np.argwhere(filled[..., 0] > 0.9)
        near = {(i + di, j + dj) for i, j in ink for di in (-1, 0, 1) for dj in (-1, 0, 1)}
        assert {tuple(at) for at in np.argwhere(outlines[..., 0] > 0.9)} <= near


def test_no_digit_is_there_as_both(example, images):
    digits = example.load_digits().x_train
    half = len(images.filled)
    np.testing.assert_array_equal(images.filled, example.drawn(digits[:half])[0])
    np.testing.assert_array_equal(images.outlines, example.drawn(digits[half : 2 * half])[1])


def test_the_table_has_the_errors_and_the_picture_test_images(example, images, tmp_path):
    output = tmp_path / "not" / "there" / "yet.png"
    printed, found = printed_and_computed(example, "train", ["--epochs=1", f"--output={output}"])
    lines = printed.splitlines()
    assert len(lines) == 4  # what it is, a head, an epoch, the file
    pairs = zip(found[1], (images.outlines_test, images.filled_test, images.filled_test))
    expected = [np.abs(translated - true).mean() for translated, true in pairs]
    np.testing.assert_allclose([float(n) for n in lines[2].split()], [1, *expected], atol=6e-4)
    assert str(output) in lines[3]
    pixels = image.imread(output)[..., :3]
    assert pixels.shape[1] > pixels.shape[0] > 300
    assert (np.ptp(pixels, axis=-1) > 0.2).sum() > 1000  # the frames of what is true, and what made
    assert (pixels.max(axis=-1) < 0.05).mean() > 0.05  # ink


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--cycle=0", "is not a finite number above 0"),
        ("--epochs=0", "is not a whole number of at least 1"),
        ("--output=picture", "is not the path of a .png file"),
    ],
)
def test_unfit_arguments_are_refused(example, capsys, option, says):
    with pytest.raises(SystemExit) as stopped:
        example.main([option])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused(
    example, images, capsys, monkeypatch, tmp_path
):
    (tmp_path / "file").touch()
    nothing = example.Translated(*3 * [np.zeros_like(images.filled_test)])
    monkeypatch.setattr(example, "train", lambda *_: {1: nothing})
    with pytest.raises(SystemExit) as stopped:
        example.main(["--output", str(tmp_path / "file" / "below.png")])
    assert stopped.value.code == 2
    assert "give a place that can be written" in capsys.readouterr().err
