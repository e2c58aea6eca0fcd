"""Trains a GAN of handwritten digits as one model with one loss, with the extragradient method.

    KERAS_BACKEND=jax python examples/gan.py
    KERAS_BACKEND=torch python examples/gan.py --optimizer adam --epochs 30 --output runs/gan.png

The critic learns to tell real digits (label 1) from generated ones (label 0). The generator is
behind `kc.reverse_gradient`: it ascends the loss that the critic descends. `--optimizer` is what
trains both: `extragradient` (two gradients a step) or `optimistic` (one) over Adam, or `adam`. The
digits are the 1797 images of scikit-learn. It prints how far the generated digits are from the real
ones, and writes the picture: digits from the same noise after 1/8, 1/4, 1/2 and all of the epochs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from program.command_line import count, parser_of, picture, seed
from program.errors import UserError, backend_required, require

with backend_required("gan.py"):
    import keras
    from keras import ops

    import keras_cool as kc

NOISE, BATCH, RATE, PENALTY = 32, 64, 5e-4, 0.5
OPTIMIZERS = {
    "extragradient": kc.optimizers.Extragradient,
    "optimistic": kc.optimizers.OptimisticGradient,
    "adam": lambda adam: adam,
}


class GAN(kc.Model):
    """Gives the critic's scores of the images and of as many generated ones, `(n, 2)`."""

    def __init__(self, seed):
        super().__init__()
        self.generator, self.critic = build_generator(), build_critic()
        self.noise_seed = keras.random.SeedGenerator(seed)

    def call(self, images, training=None):
        noise = keras.random.normal((ops.shape(images)[0], NOISE), seed=self.noise_seed)
        generated = kc.reverse_gradient(self.generator(noise, training=training))
        if training:
            self.add_loss(PENALTY / 2 * self.squared_slope(images))
        return ops.concatenate([self.critic(images), self.critic(generated)], axis=1)

    def squared_slope(self, images):
        """The squared gradient of the score with respect to a real image, in the mean (R1)."""
        _, [slope] = kc.value_and_grad(lambda tensors: ops.sum(self.critic(tensors[0])))([images])
        return ops.mean(ops.sum(ops.square(slope), axis=(1, 2, 3)))


def train(optimizer, epochs, seed, digits):
    """Trains the GAN; gives what was generated at each eighth of the epochs."""
    keras.utils.set_random_seed(seed)
    steps = -(-len(digits) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * steps)
    adam = keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99)
    gan = GAN(seed)
    gan.compile(
        OPTIMIZERS[optimizer](adam),
        keras.losses.BinaryCrossentropy(from_logits=True),
        # Keras' own step on TensorFlow may move one net before the other's gradient has read it.
        microbatch_size=BATCH if optimizer == "adam" else None,
    )
    labels = np.tile(np.array([1.0, 0.0], "float32"), (len(digits), 1))  # real, generated
    watch = Watch(digits, epochs, seed)
    gan.fit(digits, labels, batch_size=BATCH, epochs=epochs, callbacks=[watch], verbose=0)
    return watch.generated


def build_generator():
    """Makes an image of 8 x 8 pixels in [0, 1] from noise."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((NOISE,)),
            layers.Dense(2 * 2 * 64, activation="relu"),
            layers.Reshape((2, 2, 64)),
            layers.Conv2DTranspose(32, 4, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(1, 4, strides=2, padding="same", activation="sigmoid"),
        ]
    )


def build_critic():
    """Scores an image, higher if it seems real."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Conv2D(64, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )


class Watch(keras.callbacks.Callback):
    """Generates from the same noise at each eighth of the epochs, and prints the comparison."""

    def __init__(self, digits, epochs, seed):
        super().__init__()
        self.moments = sorted({max(1, round(epochs * eighth / 8)) for eighth in range(1, 9)})
        self.noise = np.random.default_rng(seed).normal(size=(1000, NOISE)).astype("float32")
        self.compare = Comparison(digits)
        self.generated = {}  # by epoch

    def on_train_begin(self, logs=None):
        print(f"{'epoch':>5}{'gradients':>11}{'energy distance':>17}{'classes found':>15}")

    def on_epoch_end(self, epoch, logs=None):
        epoch += 1
        if epoch in self.moments:
            images = ops.convert_to_numpy(self.model.generator(self.noise))
            steps = int(ops.convert_to_numpy(self.model.optimizer.iterations))
            gradients = int((logs or {}).get("gradient_evaluations", steps))
            distance, classes = self.compare(images)
            print(f"{epoch:5}{gradients:11}{distance:17.3f}{classes:9} of 10", flush=True)
            self.generated[epoch] = images


class Comparison:
    """Compares images with the real digits: the energy distance, and the classes that are found.

    The energy distance of two distributions is 0 if they are equal. Here it is its unbiased
    estimate with the Euclidean distance of the pixels. A class is found if a support vector
    machine, trained on the real digits, sees it in 5% of the images or more.
    """

    def __init__(self, digits):
        from sklearn.datasets import load_digits
        from sklearn.svm import SVC

        self.real = digits.reshape(len(digits), -1)
        self.classifier = SVC().fit(self.real, load_digits().target)
        self.distance_of_real = mean_distance(self.real)

    def __call__(self, images):
        from scipy.spatial.distance import cdist

        images = images.reshape(len(images), -1)
        between = cdist(images, self.real).mean()
        distance = 2 * between - mean_distance(images) - self.distance_of_real
        counts = np.bincount(self.classifier.predict(images), minlength=10)
        return distance, int(np.sum(counts >= 0.05 * len(images)))


def mean_distance(x):
    """The mean distance between two different rows."""
    from scipy.spatial.distance import pdist

    return pdist(x).mean()


def draw(generated, digits, title, output, columns=14):
    """Draws generated digits, a row for each of four moments, and real ones below."""
    from matplotlib.figure import Figure  # without pyplot: it draws with Agg, on any machine

    epochs = max(generated)
    nearest = {min(generated, key=lambda e: abs(e - epochs / part)) for part in (8, 4, 2, 1)}
    rows = {f"epoch {epoch}": generated[epoch][:columns] for epoch in sorted(nearest)}
    rows["real"] = digits[:columns]
    figure = Figure(figsize=(0.6 * columns + 0.8, 0.6 * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), columns, gridspec_kw={"wspace": 0.04, "hspace": 0.04})
    for (name, images), of_row in zip(rows.items(), grid):
        for image, axes in zip(images, of_row):
            axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("tab:green" if name == "real" else "lightgray")
        of_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    figure.suptitle(title, fontsize=11)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=90)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix."""
    parser = parser_of("gan.py", __doc__)
    add = parser.add_argument
    add(
        "--optimizer",
        choices=list(OPTIMIZERS),
        default="extragradient",
        help="default: extragradient",
    )
    add("--epochs", metavar="N", type=count, default=32, help="default: 32")
    add("--seed", metavar="S", type=seed, default=0, help="default: 0")
    add(
        "--output",
        metavar="FILE.png",
        type=picture,
        default=Path("runs", "gan.png"),
        help="a file that is there is replaced; default: runs/gan.png",
    )
    arguments = parser.parse_args(argv)
    try:
        require("matplotlib", "matplotlib")
        digits = load_images()
    except UserError as error:
        parser.error(str(error))
    generated = train(arguments.optimizer, arguments.epochs, arguments.seed, digits)
    try:
        title = f"digits that the generator makes from the same noise ({arguments.optimizer})"
        draw(generated, digits, title, arguments.output)
    except OSError as error:
        parser.error(f"--output {arguments.output}: {error}; give a place that can be written")
    print(f"the picture is {arguments.output}")
    return 0


def load_images():
    """The digits of scikit-learn, `(1797, 8, 8, 1)`, scaled to [0, 1]."""
    require("sklearn", "scikit-learn")
    from sklearn.datasets import load_digits

    return (load_digits().images[..., None] / 16).astype("float32")


if __name__ == "__main__":
    sys.exit(main())
