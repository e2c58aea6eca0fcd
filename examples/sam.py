"""Trains on digits of which 30% have a wrong label: Adam, and sharpness-aware minimisation over it.

    KERAS_BACKEND=jax python examples/sam.py
    KERAS_BACKEND=torch python examples/sam.py --rho 0.3 --interval 2 --output runs/sam.png

The net can memorise all labels, also the wrong ones, and then fails on the test set, whose labels
are right. `kc.optimizers.SAM` takes the gradient where the loss is about largest within `--rho`. It
needs two gradients a step (with `--interval K` a second one every K steps), so Adam trains for more
epochs: all runs have the same number of gradient evaluations. A second Adam has a tenth of the
learning rate, the best for it. The digits are the 1797 images of scikit-learn, 360 of them held
out; `--seed` chooses the wrong labels and the first weights. It prints a table, and writes the
picture: the accuracies after every epoch.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program.command_line import count, parser_of, picture, positive, seed
from program.errors import UserError, backend_required, require

with backend_required("sam.py"):
    import keras

    import keras_cool as kc
    from program.data import Data, load_digits

RATE, BATCH, WRONG = 1e-3, 64, 0.3


def train(optimizer, epochs, data, seed):
    """Trains the net; gives what it knew after each epoch."""
    keras.utils.set_random_seed(seed)
    model = build_model()
    model.compile(optimizer, loss="sparse_categorical_crossentropy")
    curve = Curve(data)
    model.fit(data.x_train, data.y_noisy, BATCH, epochs, callbacks=[curve], verbose=0)
    return curve


def build_model():
    """A dense net with room for every label, and nothing that keeps it from overfitting."""
    layers = keras.layers
    inputs = keras.Input((8, 8))
    outputs = layers.Flatten()(layers.Rescaling(1 / 16)(inputs))
    for _ in range(2):
        outputs = layers.Dense(256, activation="relu")(outputs)
    return kc.Model(inputs, layers.Dense(10, activation="softmax")(outputs))


def train_all(arguments, data):
    """Trains with Adam, Adam at a tenth of the rate, and SAM: a dictionary of `Curve`s."""
    sam = kc.optimizers.SAM(
        keras.optimizers.Adam(RATE),
        rho=arguments.rho,
        adaptive=arguments.adaptive,
        interval=arguments.interval,
    )
    of_sam = train(sam, arguments.epochs, data, arguments.seed)
    gradients_a_step = of_sam.evaluations[-1] / (arguments.epochs * of_sam.steps)
    epochs = round(arguments.epochs * gradients_a_step)
    curves = {
        f"Adam({rate:g})": train(keras.optimizers.Adam(rate), epochs, data, arguments.seed)
        for rate in (RATE, RATE / 10)
    }
    return {**curves, f"{'A' * arguments.adaptive}SAM(Adam({RATE:g}))": of_sam}


class NoisyDigits(NamedTuple):
    """The digits, the training labels of which some are wrong, and which ones are."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    y_noisy: np.ndarray
    wrong: np.ndarray


def with_wrong_labels(data: Data, seed: int) -> NoisyDigits:
    """Replaces the labels of so many training images, each by one of the nine others."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(data.y_train), bool)
    wrong[rng.permutation(len(wrong))[: round(WRONG * len(wrong))]] = True
    noisy = (data.y_train + wrong * rng.integers(1, 10, len(wrong))) % 10
    return NoisyDigits(*data, noisy, wrong)


class Curve(keras.callbacks.Callback):
    """After each epoch: gradient evaluations, accuracy on the test set and on the wrong labels."""

    def __init__(self, data):
        super().__init__()
        self.data = data
        self.steps = -(-len(data.y_train) // BATCH)
        self.evaluations, self.test, self.memorised = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        data = self.data
        one_a_step = self.steps * (epoch + 1)  # Adam's, which logs no count
        self.evaluations.append(int((logs or {}).get("gradient_evaluations", one_a_step)))
        self.test.append(self.accuracy(data.x_test, data.y_test))
        self.memorised.append(self.accuracy(data.x_train[data.wrong], data.y_noisy[data.wrong]))

    def accuracy(self, x, y):
        """The share of the images to which the model gives these labels."""
        probabilities = keras.ops.convert_to_numpy(self.model.predict_on_batch(x))
        return float(np.mean(probabilities.argmax(axis=1) == y))


def report(curves):
    """The ends of the curves, as a table."""
    head = f"{'':18}{'gradients':>11}{'test accuracy':>15}{'at its best':>13}{'wrong labels':>15}"
    lines = [head]
    for name, curve in curves.items():
        numbers = f"{curve.evaluations[-1]:11}{curve.test[-1]:15.3f}{max(curve.test):13.3f}"
        lines.append(f"{name:18}{numbers}{curve.memorised[-1]:14.1%}*")
    lines.append("* the share of the wrong training labels that the net has memorised")
    return "\n".join(lines)


def draw(curves, title, output):
    """Draws both accuracies against the gradient evaluations."""
    from matplotlib.figure import Figure  # without pyplot: it draws with Agg, on any machine

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, curve in curves.items():
        style = {"linewidth": 3, "zorder": 2} if "SAM" in name else {"linewidth": 1.5, "zorder": 3}
        left.plot(curve.evaluations, curve.test, label=name, **style)
        right.plot(curve.evaluations, curve.memorised, label=name, **style)
    left.set_title("accuracy on the test set", fontsize=11)
    right.set_title("wrong training labels that are memorised", fontsize=11)
    lowest = min(min(curve.test[len(curve.test) // 10 :]) for curve in curves.values())
    left.set_ylim(max(0.0, lowest - 0.05), 1)
    right.set_ylim(-0.03, 1.03)
    for axes in (left, right):
        axes.set(xlabel="gradient evaluations", ylabel="share of the images")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.suptitle(title, fontsize=11)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=90)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix."""
    parser = parser_of("sam.py", __doc__)
    add = parser.add_argument
    add("--rho", metavar="R", type=positive, help="default: 0.7, with --adaptive 5")
    add("--adaptive", action="store_true", help="scale the perturbation by the weights (ASAM)")
    add("--interval", metavar="K", type=count, default=1, help="of the second gradient; default: 1")
    add("--epochs", metavar="N", type=count, default=50, help="of SAM; default: 50")
    add("--seed", metavar="S", type=seed, default=0, help="default: 0")
    add(
        "--output",
        metavar="FILE.png",
        type=picture,
        default=Path("runs", "sam.png"),
        help="a file that is there is replaced; default: runs/sam.png",
    )
    arguments = parser.parse_args(argv)
    arguments.rho = arguments.rho or (5.0 if arguments.adaptive else 0.7)
    try:
        require("matplotlib", "matplotlib")
        data = with_wrong_labels(load_digits(), arguments.seed)
    except UserError as error:
        parser.error(str(error))
    curves = train_all(arguments, data)
    print(report(curves))
    try:
        draw(curves, f"digits, {WRONG:.0%} of the training labels wrong", arguments.output)
    except OSError as error:
        parser.error(f"--output {arguments.output}: {error}; give a place that can be written")
    print(f"the picture is {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
