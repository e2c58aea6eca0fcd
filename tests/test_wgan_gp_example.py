"""`examples/wgan_gp.py`: its penalty and step, what it prints and draws, and its errors."""

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
REAL = (RNG.normal(size=(40, 2)) + np.array([1.0, -0.5])).astype("float32")
NOISE = RNG.normal(size=(8, 2)).astype("float32")
SHARE = RNG.random(size=(8, 1)).astype("float32")


@pytest.fixture(scope="module")
def example():
    return script("wgan_gp")


def with_nets(kind, generator, critic, steps=2, **compiled):
    gan = kind(generator, critic, keras.optimizers.SGD(0.05), steps, 0.7, seed=3)
    gan.compile(keras.optimizers.SGD(0.05), **compiled)
    gan.optimizer.build(generator.trainable_variables)
    return gan


def linear_generator():
    return keras.Sequential([keras.Input((2,)), layers.Dense(2)])


def quadratic_critic():
    """Scores a point by the weighted sum of its squares."""
    squares = layers.Activation(ops.square)
    return keras.Sequential([keras.Input((2,)), squares, layers.Dense(1, use_bias=False)])


def by_numpy(kernel, bias, weights, real, critic_steps):
    """A step with `linear_generator` and `quadratic_critic`, its gradients by hand, in float64."""
    for _ in range(critic_steps):
        fake = NOISE @ kernel + bias
        mixture = SHARE * real + (1 - SHARE) * fake
        norm = np.linalg.norm(2 * weights * mixture, axis=1, keepdims=True)
        penalty = np.mean(2 * (norm - 1) / norm * 4 * weights * mixture**2, axis=0)
        distance = np.mean(real**2, axis=0) - np.mean(fake**2, axis=0)
        weights = weights - 0.05 * (0.7 * penalty - distance)
    by_fake = -2 * weights * (NOISE @ kernel + bias) / len(NOISE)
    return kernel - 0.05 * NOISE.T @ by_fake, bias - 0.05 * by_fake.sum(axis=0), weights


def test_the_penalty_of_a_linear_critic_is_by_the_norm_of_its_weights(example):
    critic = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    critic.layers[0].kernel.assign([[3.0], [-4.0]])  # of norm 5
    gan = with_nets(example.WassersteinGAN, linear_generator(), critic)
    arguments = [ops.convert_to_tensor(a) for a in (REAL[:8], NOISE, SHARE)]
    loss, distance = (float(ops.convert_to_numpy(t)) for t in gan.critic_loss(*arguments))
    assert loss + distance == pytest.approx(0.7 * (5 - 1) ** 2, rel=1e-5)
    fake = ops.convert_to_numpy(gan.generator(NOISE))
    expected = (REAL[:8].mean(axis=0) - fake.mean(axis=0)) @ [3, -4]
    assert distance == pytest.approx(expected, rel=1e-4)


def test_twenty_steps_are_those_of_numpy(example, monkeypatch):
    tensors = [ops.convert_to_tensor(a) for a in (NOISE, SHARE)]
    monkeypatch.setattr(example.WassersteinGAN, "noise", lambda self, x: tensors)
    gan = with_nets(example.WassersteinGAN, linear_generator(), quadratic_critic())
    kernel, bias, weights = (ops.convert_to_numpy(v) * 1.0 for v in gan.trainable_variables)
    expected = kernel.astype("float64"), bias.astype("float64"), weights[:, 0].astype("float64")
    for i in range(20):
        real = REAL.astype("float64")[8 * (i % 5) :][:8]
        expected = by_numpy(*expected, real, critic_steps=2)
    real = np.concatenate(4 * [REAL])
    *of_generator, of_critic = weights_after(gan, real, steps=20)
    assert_alike([*of_generator, of_critic[:, 0]], expected, rtol=1e-4)
    assert np.abs(of_generator[0] - kernel).max() > 0.05


def test_steps_by_hand_lead_to_the_same_weights(example):
    def trained(kind, **compiled):
        keras.utils.set_random_seed(1)
        generator, critic = example.build_net(2, 2), example.build_net(2, 1)
        return weights_after(with_nets(kind, generator, critic, **compiled), REAL)

    expected = trained(step_by_hand("wgan_gp"))
    for microbatch_size in (None, 4):
        found = trained(example.WassersteinGAN, microbatch_size=microbatch_size)
        assert_alike(found, expected, rtol=1e-5)


def test_both_nets_have_their_optimizer_and_their_number_of_steps(example):
    gan = with_nets(example.WassersteinGAN, linear_generator(), quadratic_critic(), steps=3)
    weights_after(gan, REAL, steps=4)
    steps = [int(ops.convert_to_numpy(o.iterations)) for o in (gan.critic_optimizer, gan.optimizer)]
    assert steps == [12, 4]


def test_the_distance_by_transport(example):
    points = RNG.normal(size=(30, 2))
    moved = RNG.permutation(points + np.array([3.0, -4.0]))
    assert example.transport_distance(points, moved) == pytest.approx(5)
    assert example.transport_distance(points, RNG.permutation(points)) == pytest.approx(0)


def test_the_table_has_the_distances_and_the_picture_the_points(example, tmp_path):
    output = tmp_path / "not" / "there" / "yet.png"
    options = ["--epochs=2", "--critic-steps=2", f"--output={output}"]
    printed, watch = printed_and_computed(example, "train", options)
    lines = printed.splitlines()
    assert len(lines) == 4  # a head, two epochs, the file
    for epoch, line in enumerate(lines[1:3], start=1):
        moment = watch.moments[epoch]
        steps = 2 * 16 * epoch  # 4096 points in batches of 256
        distance = example.transport_distance(moment.points, watch.real)
        expected = [epoch, steps, moment.by_critic, distance]
        np.testing.assert_allclose([float(n) for n in line.split()], expected, atol=6e-4)
    assert str(output) in lines[3]
    pixels = image.imread(output)[..., :3]
    assert pixels.shape[1] > 3 * pixels.shape[0] > 600
    for color in ((0x2C, 0xA0, 0x2C), (0xFF, 0x7F, 0x0E)):
        near = np.all(np.abs(pixels - np.array(color) / 255) < 0.02, axis=-1)
        for quarter in np.array_split(near, 4, axis=1)[:3]:
            assert quarter.sum() > 50


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--critic-steps=0", "is not a whole number of at least 1"),
        ("--penalty=0", "is not a finite number above 0"),
        ("--output=picture", "is not the path of a .png file"),
    ],
)
def test_unfit_arguments_are_refused(example, capsys, option, says):
    with pytest.raises(SystemExit) as stopped:
        example.main([option])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused(example, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    watch = example.Watch(1, seed=0)
    watch.moments[1] = example.Moment(watch.real, np.zeros(61 * 61), 0.1, 0.1)
    monkeypatch.setattr(example, "train", lambda _: watch)
    with pytest.raises(SystemExit) as stopped:
        example.main(["--output", str(tmp_path / "file" / "below.png")])
    assert stopped.value.code == 2
    assert "give a place that can be written" in capsys.readouterr().err
