"""`examples/adversarial_training.py`: its attacks and step, its table and picture, its errors."""

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
X = RNG.random(size=(40, 5)).astype("float32")
Y = (X @ [2.0, -1.0, 0.5, 0.0, -1.0] > 0.2).astype("int32")


@pytest.fixture(scope="module")
def example():
    return script("adversarial_training")


def compiled(model, rate=0.2, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, **options)
    return model


def linear(example, epsilon, steps=None):
    """A linear classifier of two classes, whose input is attacked."""
    embed = keras.Sequential([keras.Input((5,)), layers.Identity()])
    classify = keras.Sequential([keras.Input((5,)), layers.Dense(2)])
    return compiled(example.Adversarial(embed, classify, epsilon, steps))


def gradients_in_numpy(x, y, kernel, bias):
    """The gradients of each sample's cross entropy by its logits, and by `x`."""
    logits = x @ kernel + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    by_logits = odds / odds.sum(axis=1, keepdims=True) - np.eye(2)[y]
    return by_logits, by_logits @ kernel.T


def attack_in_numpy(x, y, kernel, bias, epsilon, steps):
    """FGM, or where PGD ends: with two classes the gradient has the same direction everywhere."""
    _, slope = gradients_in_numpy(x, y, kernel, bias)
    if steps is None:
        return epsilon * slope / np.linalg.norm(slope, axis=1, keepdims=True)
    return np.clip(x + epsilon * np.sign(slope), 0, 1) - x


@pytest.mark.parametrize("steps", [None, 3], ids=["fgm", "pgd"])
def test_an_attack_is_that_of_numpy(example, steps):
    model = linear(example, 0.2, steps)
    kernel, bias = (ops.convert_to_numpy(v).astype("float64") for v in model.trainable_variables)
    tensors = ops.convert_to_tensor(X), ops.convert_to_tensor(Y)
    found = (model.fgm if steps is None else model.pgd)(*tensors)
    expected = attack_in_numpy(X.astype("float64"), Y, kernel, bias, 0.2, steps)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [None, 3], ids=["fgm", "pgd"])
def test_twenty_steps_are_those_of_numpy(example, steps):
    model = linear(example, 0.2, steps)
    kernel, bias = (ops.convert_to_numpy(v).astype("float64") for v in model.trainable_variables)
    start = kernel
    for i in range(20):
        part = slice(8 * (i % 5), 8 * (i % 5) + 8)
        x, y = X[part].astype("float64"), Y[part]
        attack = attack_in_numpy(x, y, kernel, bias, 0.2, steps)
        given, labels = np.concatenate([x, x + attack]), np.concatenate([y, y])
        by_logits, _ = gradients_in_numpy(given, labels, kernel, bias)
        kernel = kernel - 0.2 * given.T @ by_logits / 16
        bias = bias - 0.2 * by_logits.mean(axis=0)
    found = weights_after(model, *(np.concatenate(4 * [a]) for a in (X, Y)), steps=20)
    assert_alike(found, [kernel, bias], rtol=1e-4)
    assert np.abs(kernel - start).max() > 0.1


def test_pgd_starts_at_random_and_keeps_within_its_bounds(example):
    embed, classify = example.build_parts(steps=1)
    model = example.Adversarial(embed, classify, 0.1, steps=1)
    images = ops.convert_to_tensor(RNG.random(size=(6, 64)).astype("float32"))
    y = ops.convert_to_tensor(np.arange(6))
    first, second = (ops.convert_to_numpy(model.pgd(images, y)) for _ in range(2))
    assert np.abs(first).max() <= 0.1 + 1e-6
    attacked = ops.convert_to_numpy(images) + first
    assert attacked.min() >= -1e-6 and attacked.max() <= 1 + 1e-6
    model.epsilon = 0.0
    assert np.abs(ops.convert_to_numpy(model.pgd(images, y))).max() == 0
    model.epsilon, model.steps = 0.1, 0
    first, second = (ops.convert_to_numpy(model.pgd(images, y)) for _ in range(2))
    assert np.abs(first - second).max() > 0.05


def test_fgm_raises_the_loss_of_every_text_by_its_embeddings(example):
    embed, classify = example.build_parts(steps=None)
    model = example.Adversarial(embed, classify, 1.0)
    words = ops.convert_to_tensor(RNG.integers(0, 17, size=(6, 64)))
    y = ops.convert_to_tensor(np.arange(6))
    given = embed(words)
    attack = model.fgm(given, y)
    lengths = np.linalg.norm(ops.convert_to_numpy(attack).reshape(6, -1), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-4)
    losses = [example.cross_entropy(y, classify(z)) for z in (given, given + attack)]
    before, after = map(ops.convert_to_numpy, losses)
    assert np.all(after > before + 0.01)
    sizes = np.linalg.norm(ops.convert_to_numpy(given), axis=-1)
    np.testing.assert_allclose(sizes, np.sqrt(8), rtol=0.01)  # of every word


@pytest.mark.parametrize("steps", [None, 3], ids=["fgm", "pgd"])
def test_steps_by_hand_lead_to_the_same_weights(example, steps):
    words = RNG.integers(0, 17, size=(40, 64))
    x = words if steps is None else (words / 16).astype("float32")
    y = np.arange(40) % 10
    weight = RNG.random(40).astype("float32")

    def trained(kind, **options):
        keras.utils.set_random_seed(1)
        model = kind(*example.build_parts(steps), 0.3, steps, seed=2)
        return weights_after(compiled(model, 0.05, **options), x, y, sample_weight=weight)

    expected = trained(step_by_hand("adversarial_training"))
    for microbatch_size in (None, 4):
        found = trained(example.Adversarial, microbatch_size=microbatch_size)
        assert_alike(found, expected, rtol=1e-5)


def test_the_table_has_the_accuracies_and_the_picture_the_attacks(example, monkeypatch, tmp_path):
    monkeypatch.setattr(example, "TEST_STEPS", 2)
    output = tmp_path / "not" / "there" / "yet.png"
    options = ["--epochs=1", "--steps=1", f"--output={output}"]
    printed, found = printed_and_computed(example, "train_all", options)
    lines = printed.splitlines()
    assert len(lines) == 10  # a loss for each of four nets, a head, four rows, the file
    y_test = example.load_digits().y_test
    for line, (names, results) in zip(lines[5:9], found.items(), strict=True):
        assert line.startswith(", ".join(names))
        right = [np.mean(results[i].labels == y_test) for i in (0, 4, 8)]
        np.testing.assert_allclose([float(n) for n in line.split()[-3:]], right, atol=6e-4)
        assert right[0] > max(right[1:])
    assert str(output) in lines[9]
    pixels = image.imread(output)[..., :3]
    assert pixels.shape[1] > 2 * pixels.shape[0] > 500
    for color in ((0xD6, 0x27, 0x28), (0x2C, 0xA0, 0x2C)):
        near = np.all(np.abs(pixels - np.array(color) / 255) < 0.02, axis=-1)
        assert near.sum() > 200


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--pgd-epsilon=0", "is not a finite number above 0"),
        ("--fgm-epsilon=inf", "is not a finite number above 0"),
        ("--steps=0", "is not a whole number of at least 1"),
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
    result = example.Attacked(np.zeros((360, 64)), np.zeros(360, int))
    found = {
        (task, kind): [result] * 9
        for task in ("PGD on images", "FGM on embeddings")
        for kind in ("plain", "adversarial")
    }
    monkeypatch.setattr(example, "train_all", lambda *_: found)
    with pytest.raises(SystemExit) as stopped:
        example.main(["--output", str(tmp_path / "file" / "below.png")])
    assert stopped.value.code == 2
    assert "give a place that can be written" in capsys.readouterr().err
