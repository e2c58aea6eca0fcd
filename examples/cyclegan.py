"""Learns to draw the outlines of digits, and to fill outlines, from unpaired images of both.

    KERAS_BACKEND=jax python examples/cyclegan.py
    KERAS_BACKEND=torch python examples/cyclegan.py --cycle 3 --output runs/cyclegan.png

One half of the digits is there as filled images, the other half as outlines: no digit is there as
both. Two generators translate, one in each direction, and a critic for each direction tells what
they make from true images. There and back again should lead to the image where it began (a loss of
weight `--cycle`). The four nets have an optimizer each. A step takes one gradient for both
generators, which share the cycle, and one for each critic, and updates all four nets at the end.
The digits are the 1797 images of scikit-learn, enlarged; 360 of them are held out. Their outlines
are known, so the table says how far the translated images are from the truth, and the picture shows
both.

Reference: Zhu, Park, Isola and Efros, 2017, "Unpaired Image-to-Image Translation using
Cycle-Consistent Adversarial Networks", with least squares as the adversarial loss.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program.command_line import count, parser_of, picture, positive, seed
from program.errors import UserError, backend_required, require

with backend_required("cyclegan.py"):
    import keras
    from keras import ops

    import keras_cool as kc
    from program.data import load_digits

BATCH, RATE, SIDE = 64, 1e-3, 20  # pixels


class CycleGAN(kc.Model):
    """Two generators, two critics, and an optimizer for each: `compile` takes that of `to_b`."""

    def __init__(self, to_b, to_a, critic_b, critic_a, other_optimizers, cycle):
        super().__init__()
        self.to_b, self.to_a, self.critic_b, self.critic_a = to_b, to_a, critic_b, critic_a
        self.other_optimizers, self.cycle = other_optimizers, cycle
        for net, optimizer in zip((to_a, critic_b, critic_a), other_optimizers, strict=True):
            optimizer.build(net.trainable_variables)
        self.built = True  # all four nets are

    def call(self, a):
        return self.to_b(a)

    def multi_gradient_step(self, x, y, sample_weight):
        nets = (self.to_b, self.to_a, self.critic_b, self.critic_a)
        variables = [net.trainable_variables for net in nets]
        (loss, (cycle, *fakes)), both = self.value_and_grad(
            self.generator_loss, variables[0] + variables[1], has_aux=True, batch=(x, y)
        )
        gradients = [both[: len(variables[0])], both[len(variables[0]) :]]
        for critic, of_critic, *images in zip(nets[2:], variables[2:], (y, x), fakes):
            critic_loss = functools.partial(self.critic_loss, critic)
            gradients.append(self.value_and_grad(critic_loss, of_critic, batch=tuple(images))[1])
        for update in zip(gradients, variables, (self.optimizer, *self.other_optimizers)):
            self.apply_gradients(*update)
        return {"loss": loss, "cycle": cycle}

    def generator_loss(self, a, b):
        fake_b, fake_a = self.to_b(a), self.to_a(b)
        back_a, back_b = self.to_a(fake_b), self.to_b(fake_a)
        cycle = ops.mean(ops.abs(back_a - a)) + ops.mean(ops.abs(back_b - b))
        scores = self.critic_b(fake_b), self.critic_a(fake_a)
        fooling = sum(ops.mean(ops.square(score - 1)) for score in scores)
        return fooling + self.cycle * cycle, (cycle, fake_b, fake_a)

    def critic_loss(self, critic, real, fake):
        return ops.mean(ops.square(critic(real) - 1)) + ops.mean(ops.square(critic(fake)))


def build_generator():
    """Makes an image of an image; each pixel depends on 11 x 11 pixels around it."""
    convolution = functools.partial(keras.layers.Conv2D, padding="same", activation="relu")
    hidden = [convolution(16, 3, dilation_rate=rate) for rate in (1, 2, 1)]
    last = convolution(1, 3, activation="sigmoid", dtype="float32")  # in mixed precision too
    return keras.Sequential([keras.Input((SIDE, SIDE, 1)), *hidden, last])


def build_critic():
    """Scores the parts of an image, towards 1 if they seem true."""
    layers = []
    for filters in (16, 32):
        layers += [keras.layers.Conv2D(filters, 4, strides=2), keras.layers.LeakyReLU(0.2)]
    last = keras.layers.Conv2D(1, 3, dtype="float32")
    return keras.Sequential([keras.Input((SIDE, SIDE, 1)), *layers, last])


def build_gan(cycle, updates, seed):
    """The four nets, compiled with four optimizers, whose learning rates fall to 0."""
    keras.utils.set_random_seed(seed)
    nets = [build_generator(), build_generator(), build_critic(), build_critic()]
    rate = keras.optimizers.schedules.CosineDecay(RATE, updates)
    optimizer, *others = [keras.optimizers.Adam(rate, beta_1=0.5) for _ in nets]
    gan = CycleGAN(*nets, others, cycle)
    gan.compile(optimizer)
    gan.optimizer.build(gan.to_b.trainable_variables)  # it has no part in the other nets
    return gan


class Images(NamedTuple):
    """Digits to train on, filled and as outlines; others to test on, each as both."""

    filled: np.ndarray
    outlines: np.ndarray
    filled_test: np.ndarray
    outlines_test: np.ndarray


def load_images():
    """The digits of scikit-learn as images `(n, 20, 20, 1)` from 0 to 1."""
    data = load_digits()
    half = len(data.x_train) // (2 * BATCH) * BATCH  # no smaller batch at the end
    filled, _ = drawn(data.x_train[:half])
    _, outlines = drawn(data.x_train[half : 2 * half])
    return Images(filled, outlines, *drawn(data.x_test))


def drawn(digits):
    """Draws digits of 8 x 8 pixels large and sharp; gives filled images and their outlines."""
    require("scipy", "scipy")
    from scipy.ndimage import grey_dilation, zoom

    large = zoom(digits / 16, (1, 2, 2), order=3, mode="nearest", grid_mode=True)
    border = (SIDE - large.shape[1]) // 2
    filled = np.pad(np.clip(2.5 * large - 0.75, 0, 1), ((0, 0), (border, border), (border, border)))
    outlines = grey_dilation(filled, size=(1, 3, 3)) - filled
    return [images[..., None].astype("float32") for images in (filled, outlines)]


class Translated(NamedTuple):
    """The test images translated, and there and back again."""

    outlines: np.ndarray
    filled: np.ndarray
    filled_again: np.ndarray

    def errors(self, images):
        """How far they are from the truth, in the mean over the pixels."""
        pairs = zip(self, (images.outlines_test, images.filled_test, images.filled_test))
        return [float(np.abs(found - true).mean()) for found, true in pairs]


class Watch(keras.callbacks.Callback):
    """Translates the test images at each eighth of the epochs, and prints the errors."""

    def __init__(self, images, epochs):
        super().__init__()
        self.images, self.found = images, {}  # by epoch
        self.kept = {max(1, round(epochs * eighth / 8)) for eighth in range(1, 9)}

    def on_train_begin(self, logs=None):
        print("distance from the truth, in the mean over the pixels of test images")
        print(f"{'epoch':>5}{'drawn outlines':>16}{'filled outlines':>17}{'both in turn':>14}")

    def on_epoch_end(self, epoch, logs=None):
        epoch += 1
        if epoch in self.kept:
            found = self.found[epoch] = self.translated()
            outlines, filled, again = found.errors(self.images)
            print(f"{epoch:5}{outlines:16.3f}{filled:17.3f}{again:14.3f}", flush=True)

    def translated(self):
        to_b, to_a = self.model.to_b.predict_on_batch, self.model.to_a.predict_on_batch
        outlines = to_b(self.images.filled_test)
        pair = outlines, to_a(self.images.outlines_test), to_a(outlines)
        return Translated(*map(ops.convert_to_numpy, pair))


def train(arguments, images):
    """Trains the four nets; gives what they made of the test images, by epoch."""
    updates = arguments.epochs * len(images.filled) // BATCH
    gan = build_gan(arguments.cycle, updates, arguments.seed)
    watch = Watch(images, arguments.epochs)
    gan.fit(images.filled, images.outlines, BATCH, arguments.epochs, callbacks=[watch], verbose=0)
    return watch.found


def draw(found, images, output, columns=10):
    """Draws test images, what was made of them, and the truth below."""
    from matplotlib.figure import Figure  # without pyplot: it draws with Agg, on any machine

    last = found[max(found)]
    rows = {
        "filled": images.filled_test,
        "outlines, drawn": last.outlines,
        "true outlines": images.outlines_test,
        "outlines": images.outlines_test,
        "digits, filled": last.filled,
        "true digits": images.filled_test,
    }
    figure = Figure(figsize=(0.8 * columns + 1.6, 0.8 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), columns, gridspec_kw={"wspace": 0.04, "hspace": 0.04})
    for (name, pictures), of_row in zip(rows.items(), grid):
        for axes, image in zip(of_row, pictures):
            axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            color = "tab:orange" if "," in name else "lightgray"
            axes.spines[:].set_color("tab:green" if "true" in name else color)
        of_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    figure.suptitle("translated both ways, trained without a pair", fontsize=12)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=80)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix."""
    parser = parser_of("cyclegan.py", __doc__)
    add = parser.add_argument
    add("--cycle", metavar="W", type=positive, default=10.0, help="default: 10")
    add("--epochs", metavar="N", type=count, default=40, help="default: 40")
    add("--seed", metavar="S", type=seed, default=0, help="default: 0")
    add(
        "--output",
        metavar="FILE.png",
        type=picture,
        default=Path("runs", "cyclegan.png"),
        help="a file that is there is replaced; default: runs/cyclegan.png",
    )
    arguments = parser.parse_args(argv)
    try:
        require("matplotlib", "matplotlib")
        images = load_images()
    except UserError as error:
        parser.error(str(error))
    found = train(arguments, images)
    try:
        draw(found, images, arguments.output)
    except OSError as error:
        parser.error(f"--output {arguments.output}: {error}; give a place that can be written")
    print(f"the picture is {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
