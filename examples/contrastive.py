"""Learns features of digits without their labels: InfoNCE over a batch of 1,024, 64 at a time.

    KERAS_BACKEND=jax python examples/contrastive.py
    KERAS_BACKEND=torch python examples/contrastive.py --batch 512 --output runs/contrastive.png

Each image is seen twice, distorted and with noise, and has to find its other view among those of
the whole batch: the larger the batch, the harder that is. The loss compares all of them, so it does
not split into micro-batches. With `whole_batch_loss=True` the update is that of the large batch, in
the memory of `--microbatch` images (GradCache); the random views of both passes are the same. A
second run of as many updates computes the loss of each micro-batch by itself, which is another
loss. The features are then judged by a linear probe: logistic regression on few labels, and on all.
The digits are the 1797 images of scikit-learn, 360 of them held out. It prints a table, and writes
the picture: the features of the test images, by their two principal components.

Reference: Chen and others, 2020, "A Simple Framework for Contrastive Learning of Visual
Representations" (SimCLR).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program.command_line import count, parser_of, picture, positive, seed
from program.errors import UserError, backend_required, require

with backend_required("contrastive.py"):
    import keras
    from keras import layers, ops

    import keras_cool as kc
    from program.data import Data, load_digits

RATE, FEATURES, FEW = 1e-3, 128, 10  # labels of each digit


class InfoNCE(keras.losses.Loss):
    """Each view is to find the other view of its image among the views of all images (NT-Xent).

    Args:
        temperature: Float above 0.
    """

    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def call(self, y_true, y_pred):
        """The loss of each image, shape `(batch,)`; `y_pred` has both embeddings side by side."""
        views = ops.concatenate(ops.split(y_pred, 2, axis=-1))
        views = ops.normalize(views, axis=-1)
        similarity = ops.matmul(views, ops.transpose(views)) / self.temperature
        images = ops.shape(y_pred)[0]
        similarity -= 1e9 * ops.eye(2 * images, dtype=similarity.dtype)  # not itself
        other = (ops.arange(2 * images) + images) % (2 * images)
        loss = keras.losses.sparse_categorical_crossentropy(other, similarity, from_logits=True)
        return (loss[:images] + loss[images:]) / 2


class RandomDistortion(layers.Layer):
    """Shifts, turns, scales and shears each image in one of many ways.

    Args:
        ways: Integer, how many.
    """

    def __init__(self, ways=64):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator()
        self.matrices = distortions(ways)

    def call(self, images):
        shape = ops.shape(images)[0], len(self.matrices)
        draws = keras.random.randint(shape[:1], 0, shape[1], seed=self.seed_generator)
        matrices = ops.take(ops.convert_to_tensor(self.matrices), draws, axis=0)
        distorted = ops.matmul(matrices, ops.reshape(images, (-1, 64, 1)))
        return ops.reshape(distorted, (-1, 8, 8))


def distortions(ways):
    """Matrices that distort images as vectors, shape `(ways, 64, 64)`."""
    from scipy.ndimage import affine_transform

    rng, center = np.random.default_rng(0), np.full(2, 3.5)
    pixels = np.eye(64).reshape(64, 8, 8)  # what becomes of each, a distortion is linear in
    matrices = []
    for _ in range(ways):
        linear = np.eye(2) + rng.normal(scale=0.15, size=(2, 2))
        offset = center - linear @ center + rng.normal(scale=0.7, size=2)
        moved = [affine_transform(pixel, linear, offset, order=1) for pixel in pixels]
        matrices.append(np.reshape(moved, (64, 64)).T)
    return np.stack(matrices).astype("float32")


def build_views():
    """The random views of images: distorted, and with noise."""
    return keras.Sequential(
        [keras.Input((8, 8)), RandomDistortion(), layers.GaussianNoise(0.1)], name="views"
    )


def build_encoder():
    """A small dense net: images `(8, 8)` to features."""
    hidden = [layers.Dense(units, activation="relu") for units in (256, FEATURES)]
    return keras.Sequential([keras.Input((8, 8)), layers.Flatten(), *hidden], name="encoder")


def train(data, arguments, whole_batch_loss):
    """Trains an encoder on images alone; gives it and the loss of each epoch."""
    keras.utils.set_random_seed(arguments.seed)
    encoder, views = build_encoder(), build_views()
    head = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(64)], name="head")
    images = keras.Input((8, 8))
    embeddings = [head(encoder(views(images))) for _ in range(2)]
    model = kc.Model(images, layers.Concatenate()(embeddings))
    model.compile(
        keras.optimizers.Adam(RATE),
        loss=InfoNCE(arguments.temperature),
        microbatch_size=arguments.microbatch,
        whole_batch_loss=whole_batch_loss,
    )
    nothing = np.zeros((len(data.x_train), 1), "float32")
    history = model.fit(data.x_train, nothing, arguments.batch, arguments.epochs, verbose=0).history
    return encoder, history["loss"]


class Features(NamedTuple):
    """What a linear probe is given, and how well it does: accuracies on the test set."""

    train: np.ndarray
    test: np.ndarray
    with_few_labels: float
    with_all_labels: float


def probed(encode, data):
    """Judges features by logistic regression on some of the labels, and on all."""
    train, test = (np.asarray(encode(x)).reshape(len(x), -1) for x in (data.x_train, data.x_test))
    labels = data.y_train
    few = np.concatenate([np.flatnonzero(labels == digit)[:FEW] for digit in range(10)])
    accuracies = [accuracy(train[at], labels[at], test, data.y_test) for at in (few, slice(None))]
    return Features(train, test, *accuracies)


def accuracy(x, y, x_test, y_test):
    """The accuracy on the test set of logistic regression on `x` and `y`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    return probe.fit(x, y).score(x_test, y_test)


def train_all(arguments, data):
    """Trains both ways; gives the features of both, and the pixels."""
    encoders = {"pixels": lambda x: x}
    for name, whole in names_of(arguments).items():
        encoder, losses = train(data, arguments, whole)
        print(f"{name}: the loss goes from {losses[0]:.2f} to {losses[-1]:.2f}")
        encoders[name] = encoder.predict_on_batch
    return {name: probed(encode, data) for name, encode in encoders.items()}


def names_of(arguments):
    """Both ways to train, and whether they have a loss of the whole batch."""
    size, batch = arguments.microbatch, arguments.batch
    return {f"loss of {size} each": False, f"loss of {batch:,}, {size} at a time": True}


def report(features):
    """The accuracies of the probe, as a table."""
    few, every = f"{10 * FEW} labels", "all labels"
    lines = [f"{'accuracy of a linear probe on':32}{few:>12}{every:>12}"]
    for name, found in features.items():
        lines.append(f"{name:32}{found.with_few_labels:12.3f}{found.with_all_labels:12.3f}")
    return "\n".join(lines)


def principal_plane(x):
    """The two principal components of the rows of `x`, scaled to length 1 before."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    x = x - x.mean(axis=0)
    return x @ np.linalg.svd(x, full_matrices=False)[2][:2].T


def draw(features, labels, output):
    """Draws the features of the test images in the plane, a color for each digit."""
    from matplotlib.figure import Figure  # without pyplot: it draws with Agg, on any machine

    figure = Figure(figsize=(4 * len(features), 4.4), layout="constrained")
    for axes, (name, found) in zip(
        figure.subplots(1, len(features)), features.items(), strict=True
    ):
        plane = principal_plane(found.test)
        for digit in range(10):
            axes.scatter(*plane[labels == digit].T, s=12, color=f"C{digit}", label=str(digit))
        axes.set_title(f"{name}: {found.with_few_labels:.1%} with {10 * FEW} labels", fontsize=11)
        axes.set(xticks=[], yticks=[])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=10)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=80)


def scaled(data: Data) -> Data:
    """Images from 0 to 1."""
    return data._replace(
        x_train=(data.x_train / 16).astype("float32"), x_test=(data.x_test / 16).astype("float32")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix."""
    parser = parser_of("contrastive.py", __doc__)
    add = parser.add_argument
    add("--batch", metavar="N", type=count, default=1024, help="images; default: 1024")
    add("--microbatch", metavar="N", type=count, default=64, help="at a time; default: 64")
    add("--temperature", metavar="T", type=positive, default=0.2, help="default: 0.2")
    add("--epochs", metavar="N", type=count, default=60, help="default: 60")
    add("--seed", metavar="S", type=seed, default=0, help="default: 0")
    add(
        "--output",
        metavar="FILE.png",
        type=picture,
        default=Path("runs", "contrastive.png"),
        help="a file that is there is replaced; default: runs/contrastive.png",
    )
    arguments = parser.parse_args(argv)
    if arguments.microbatch > arguments.batch:
        parser.error("--microbatch is at most --batch: it is a part of it")
    try:
        require("matplotlib", "matplotlib")
        data = scaled(load_digits())
    except UserError as error:
        parser.error(str(error))
    features = train_all(arguments, data)
    print(report(features))
    try:
        draw(features, data.y_test, arguments.output)
    except OSError as error:
        parser.error(f"--output {arguments.output}: {error}; give a place that can be written")
    print(f"the picture is {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
