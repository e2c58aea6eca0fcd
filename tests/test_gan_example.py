"""`examples/gan.py`: who descends and who ascends, what it prints and draws, and its errors."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops
from matplotlib import image

from keras_cool.gradients import value_and_grad_at
from support.examples import printed_and_computed, script

STEPS = 29  # 1797 images in batches of 64


@pytest.fixture(scope="module")
def example():
    return script("gan")


@pytest.fixture(scope="module")
def digits(example):
    return example.load_images()


@pytest.fixture(scope="module")
def run(example, tmp_path_factory):
    """Two epochs of the script, with what was generated."""
    output = tmp_path_factory.mktemp("gan") / "not" / "there" / "yet.png"
    options = ["--epochs=2", f"--output={output}"]
    printed, generated = printed_and_computed(example, "train", options)
    return SimpleNamespace(output=output, printed=printed, generated=generated)


def test_the_critic_descends_and_the_generator_ascends_one_loss(example, digits):
    keras.utils.set_random_seed(0)
    gan = example.GAN(0)
    images = digits[:16]
    gan(images)  # which builds it
    labels = np.tile(np.array([1.0, 0.0], "float32"), (16, 1))
    of_scores = keras.losses.BinaryCrossentropy(from_logits=True)
    noise = keras.random.normal((16, 32), seed=keras.random.SeedGenerator(0))

    def of_model():
        return of_scores(labels, gan(images)), None

    def without_reversal():
        scores = [gan.critic(images), gan.critic(gan.generator(noise))]
        return of_scores(labels, ops.concatenate(scores, axis=1)), None

    def gradients(loss, part):
        gan.noise_seed.state.assign(keras.random.SeedGenerator(0).state.value)
        variables = part.trainable_variables
        evaluate = value_and_grad_at(loss, variables)
        return [ops.convert_to_numpy(g) for g in evaluate([v.value for v in variables])[1]]

    for sign, part in ((1, gan.critic), (-1, gan.generator)):
        plain, reversed_ = gradients(without_reversal, part), gradients(of_model, part)
        for one, other in zip(plain, reversed_, strict=True):
            np.testing.assert_allclose(other, sign * one, rtol=1e-4, atol=1e-7)
    assert max(np.abs(g).max() for g in plain) > 1e-5


def test_the_model_gives_a_score_for_a_real_and_a_generated_image(example, digits):
    gan = example.GAN(0)
    scores = ops.convert_to_numpy(gan(digits[:5]))
    assert scores.shape == (5, 2)
    expected = ops.convert_to_numpy(gan.critic(digits[:5]))[:, 0]
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-5)


def test_the_penalty_is_the_squared_slope_of_the_score(example, digits):
    gan = example.GAN(0)
    gan(digits[:3])

    def score(flat):
        values = gan.critic(flat.reshape(-1, 8, 8, 1).astype("float32"))
        return ops.convert_to_numpy(values).astype("float64")[:, 0]

    expected = []
    for one in digits[:3].reshape(3, 64).astype("float64"):
        steps = 1e-2 * np.eye(64)  # the score is piecewise linear
        slope = (score(one + steps) - score(one - steps)) / 2e-2
        expected.append(np.sum(slope**2))
    found = float(ops.convert_to_numpy(gan.squared_slope(ops.convert_to_tensor(digits[:3]))))
    assert found == pytest.approx(np.mean(expected), rel=0.05)


def test_the_distance_tells_digits_from_others(example, digits):
    compare = example.Comparison(digits)
    distance, classes = compare(digits[:1000])
    assert abs(distance) < 0.02
    assert classes == 10
    zeros = digits[[i for i in range(900) if compare.classifier.predict(compare.real[[i]]) == 0]]
    distance, classes = compare(zeros)
    assert distance > 0.3
    assert classes == 1


def test_the_table_has_the_numbers(example, digits, run):
    lines = run.printed.splitlines()
    assert len(lines) == 4  # a head, two epochs, the file
    compare = example.Comparison(digits)
    for epoch, line in enumerate(lines[1:3], start=1):
        number, gradients, distance, found = line.split(maxsplit=3)
        assert (int(number), int(gradients)) == (epoch, 2 * STEPS * epoch)
        expected, classes = compare(run.generated[epoch])
        assert float(distance) == pytest.approx(expected, abs=6e-4)
        assert found == f"{classes} of 10"


def test_the_generator_is_trained(run):
    assert list(run.generated) == [1, 2]
    for images in run.generated.values():
        assert images.shape == (1000, 8, 8, 1)
        assert 0 <= images.min() < images.max() <= 1
    assert np.abs(run.generated[2] - run.generated[1]).max() > 0.05


def test_the_picture_has_digits(run):
    assert [p.name for p in run.output.parent.iterdir()] == ["yet.png"]
    assert str(run.output) in run.printed
    pixels = image.imread(run.output)[..., :3]
    assert pixels.shape[1] > pixels.shape[0] > 100
    assert pixels.std() > 0.1


@pytest.mark.parametrize(("optimizer", "gradients"), [("optimistic", 1), ("adam", 1)])
def test_other_optimizers(example, tmp_path, capsys, optimizer, gradients):
    output = tmp_path / "gan.png"
    options = [f"--optimizer={optimizer}", "--epochs=1", f"--output={output}"]
    assert example.main(options) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[:2] == ["1", str(gradients * STEPS)]
    assert output.is_file()


def test_the_seed_decides_the_digits(example, digits, capsys):
    def generated(seed):
        return example.train("extragradient", 1, seed, digits)[1]

    one = generated(3)
    np.testing.assert_array_equal(generated(3), one)
    assert np.abs(generated(4) - one).max() > 0.01


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--optimizer=sgd", "invalid choice: 'sgd'"),
        ("--epochs=0", "is not a whole number of at least 1"),
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
    monkeypatch.setattr(example, "train", lambda *_: run.generated)
    with pytest.raises(SystemExit) as stopped:
        example.main(["--output", str(run.output / "below.png")])
    assert stopped.value.code == 2
    assert "give a place that can be written" in capsys.readouterr().err
