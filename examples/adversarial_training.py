"""Trains nets that small changes of their inputs, made to mislead them, do not mislead.

    KERAS_BACKEND=jax python examples/adversarial_training.py
    KERAS_BACKEND=torch python examples/adversarial_training.py --pgd-epsilon 0.2 --steps 10

An attack changes what a net is given so that its loss grows. Two are shown. Projected gradient
descent (PGD) changes each pixel of an image by at most `--pgd-epsilon`, in `--steps` steps along
the sign of the gradient by the image. The fast gradient method (FGM) takes one gradient, and works
for words too: here the 64 gray levels of an image are words, and it changes their embeddings, all
together by the length `--fgm-epsilon`. So each step takes gradients by the inputs or embeddings
first, and then one by the weights, of the loss with and without the attack. Each net is trained in
this way and plainly. The table has the share of test images that it still gets right, and the
picture how that falls with the size of the attack. The digits are the 1797 images of scikit-learn.

References: Madry and others, 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks"
(PGD); Miyato, Dai and Goodfellow, 2017, "Adversarial Training Methods for Semi-Supervised Text
Classification" (FGM on embeddings).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program.command_line import count, parser_of, picture, positive, seed
from program.errors import UserError, backend_required, require

with backend_required("adversarial_training.py"):
    import keras
    from keras import layers, ops

    import keras_cool as kc
    from program.data import Data, load_digits

BATCH, RATE, LEVELS, WIDTH = 64, 1e-3, 17, 8
TEST_STEPS = 20  # of PGD on test images
SIZES = np.linspace(0, 2, 9)  # of the attacks on test images, relative to those in training


class Adversarial(kc.Model):
    """A net in two parts, `classify(embed(x))`, trained with attacks on what is between them.

    Args:
        embed: A model that makes numbers of inputs.
        classify: A model that makes logits of these.
        epsilon: Float, the size of an attack: its length for FGM, its largest entry for PGD.
        steps: Integer, the steps of PGD, or `None` for FGM.
        seed: Integer, of the points where PGD starts.
    """

    def __init__(self, embed, classify, epsilon, steps=None, seed=0):
        super().__init__()
        self.embed, self.classify, self.epsilon, self.steps = embed, classify, epsilon, steps
        self.starts = keras.random.SeedGenerator(seed)
        self.built = True  # both parts are

    def call(self, x, training=None):
        return self.classify(self.embed(x, training=training), training=training)

    def multi_gradient_step(self, x, y, sample_weight):
        variables, given = self.trainable_variables, self.embed(x)
        attack = self.fgm(given, y) if self.steps is None else self.pgd(given, y)
        batch = (x, y, sample_weight, attack)
        loss, gradients = self.value_and_grad(self.loss_with_attack, variables, batch=batch)
        self.apply_gradients(gradients, variables)
        return {"loss": loss}

    def loss_with_attack(self, x, y, sample_weight, attack):
        given = self.embed(x, training=True)
        outputs = [self.classify(z, training=True) for z in (given, given + attack)]
        plain, attacked = (self.compute_loss(x, y, output, sample_weight) for output in outputs)
        return (plain + attacked) / 2

    def fgm(self, given, y):
        gradient = self.gradient(given, y)
        axes = tuple(range(1, len(given.shape)))
        length = ops.sqrt(ops.sum(ops.square(gradient), axis=axes, keepdims=True))
        return self.epsilon * gradient / (length + 1e-12)

    def pgd(self, given, y):
        low, high, shape = -self.epsilon, self.epsilon, ops.shape(given)
        attack = keras.random.uniform(shape, low, high, seed=self.starts)
        for _ in range(self.steps):
            gradient = self.gradient(given + attack, y)
            attack = attack + 2.5 * self.epsilon / self.steps * ops.sign(gradient)
            attack = ops.clip(given + ops.clip(attack, low, high), 0, 1) - given
        return attack

    def gradient(self, given, y):
        """The gradient of each sample's loss by what `classify` is given of it."""

        def loss(tensors):
            return ops.sum(cross_entropy(y, self.classify(tensors[0])))

        return kc.value_and_grad(loss)([given])[1][0]


def cross_entropy(y, logits):
    """The loss of each sample."""
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)


class Task(NamedTuple):
    """What the nets of one attack are given, and the attack in training."""

    name: str
    data: Data
    epsilon: float
    steps: int | None


def tasks_of(arguments, data):
    """Images with PGD, and words with FGM."""
    used = len(data.x_train) // BATCH * BATCH  # no smaller batch at the end
    data = data._replace(x_train=data.x_train[:used], y_train=data.y_train[:used])
    images, words = ([f(x) for x in (data.x_train, data.x_test)] for f in (as_images, as_words))
    pixels = data._replace(x_train=images[0], x_test=images[1])
    texts = data._replace(x_train=words[0], x_test=words[1])
    return [
        Task("PGD on images", pixels, arguments.pgd_epsilon, arguments.steps),
        Task("FGM on embeddings", texts, arguments.fgm_epsilon, None),
    ]


def as_images(digits):
    """Numbers from 0 to 1, `(n, 64)`."""
    return (digits.reshape(-1, 64) / 16).astype("float32")


def as_words(digits):
    """Gray levels 0 to 16 as the numbers of words, `(n, 64)`."""
    return digits.reshape(-1, 64).round().astype("int32")


def build_parts(steps):
    """What embeds and what classifies: for PGD images as they are, for FGM embedded words."""
    # What is attacked, and the logits, are float32 in mixed precision too.
    shape, embed = (64,), [keras.Input((64,)), layers.Identity(dtype="float32")]
    if steps is None:
        # All embeddings have the same length: long ones would make the attack small.
        unit = layers.LayerNormalization(epsilon=1e-6, center=False, scale=False, dtype="float32")
        shape = (64, WIDTH)
        embed = [keras.Input((64,), dtype="int32"), layers.Embedding(LEVELS, WIDTH), unit]
    hidden = [layers.Dense(128, activation="relu") for _ in range(2)]
    last = layers.Dense(10, dtype="float32")
    classify = [keras.Input(shape), layers.Flatten(), *hidden, last]
    return keras.Sequential(embed), keras.Sequential(classify)


def train(task, adversarial, epochs, seed):
    """Trains a net with attacks or without; gives its two parts."""
    keras.utils.set_random_seed(seed)
    embed, classify = build_parts(task.steps)
    model = keras.Sequential([embed, classify])
    if adversarial:
        model = Adversarial(embed, classify, task.epsilon, task.steps, seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss)
    progress = Progress(f"{task.name}, {'adversarial' if adversarial else 'plain'} training")
    model.fit(task.data.x_train, task.data.y_train, BATCH, epochs, callbacks=[progress], verbose=0)
    return embed, classify


class Progress(keras.callbacks.Callback):
    """Prints the loss at the end."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 in (1, self.params["epochs"]):
            print(f"{self.name}: loss {(logs or {})['loss']:.4f} in epoch {epoch + 1}", flush=True)


class Attacked(NamedTuple):
    """Test images after an attack, as `classify` is given them, and what it takes them for."""

    given: np.ndarray
    labels: np.ndarray


def attacked(task, embed, classify, size):
    """Attacks a trained net on the test images, with so many times the size in training."""
    steps = None if task.steps is None else TEST_STEPS
    model = Adversarial(embed, classify, float(size) * task.epsilon, steps)
    given = embed(ops.convert_to_tensor(task.data.x_test))
    y = ops.convert_to_tensor(task.data.y_test)
    changed = given + (model.fgm(given, y) if steps is None else model.pgd(given, y))
    labels = ops.argmax(classify(changed), axis=1)
    return Attacked(*map(ops.convert_to_numpy, (changed, labels)))


def train_all(arguments, tasks):
    """Trains every net; gives its test images after attacks of all sizes, by task and training."""
    found = {}
    for task in tasks:
        for kind in ("plain", "adversarial"):
            parts = train(task, kind == "adversarial", arguments.epochs, arguments.seed)
            found[task.name, kind] = [attacked(task, *parts, size) for size in SIZES]
    return found


def accuracies(results, y_test):
    """The share of right labels at each size of the attack."""
    return [float(np.mean(result.labels == y_test)) for result in results]


def report(found, tasks):
    """The accuracies without an attack, and with attacks of the size in training and twice it."""
    lines = [f"{'accuracy on the test set':40}{'no attack':>11}{'attack':>9}{'twice as large':>16}"]
    for task in tasks:
        for kind in ("plain", "adversarial"):
            right = accuracies(found[task.name, kind], task.data.y_test)
            none, one, two = right[0], right[len(SIZES) // 2], right[-1]
            lines.append(f"{task.name + ', ' + kind:40}{none:11.3f}{one:9.3f}{two:16.3f}")
    return "\n".join(lines)


def draw(found, tasks, output, columns=6):
    """Draws the accuracies against the size of the attack, and images that were attacked."""
    from matplotlib.figure import Figure  # without pyplot: it draws with Agg, on any machine

    figure = Figure(figsize=(13.5, 4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(8.5, 5))
    for axes, task in zip(left.subplots(1, 2, sharey=True), tasks, strict=True):
        for kind, color in (("plain", "tab:red"), ("adversarial", "tab:green")):
            shares = accuracies(found[task.name, kind], task.data.y_test)
            axes.plot(SIZES * task.epsilon, shares, "o-", color=color, label=f"{kind} training")
        axes.axvline(task.epsilon, color="gray", ls=":", label="attack in training")
        length = "largest change of a pixel" if task.steps else "length of the change"
        axes.set(xlabel=length, ylim=(0, 1.02))
        axes.set_title(f"accuracy under {task.name}", fontsize=11)
        axes.legend(loc="lower left", fontsize=9)
        axes.grid(alpha=0.3)
    draw_images(right, found, tasks[0], columns)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=80)


def draw_images(figure, found, task, columns):
    """Draws test images as they are, and attacked for either net, with what it takes them for."""
    kinds = ("plain", "adversarial")
    middle = [found[task.name, kind][len(SIZES) // 2] for kind in kinds]
    y, before = task.data.y_test, found[task.name, "plain"][0]
    misled = np.flatnonzero((before.labels == y) & (middle[0].labels != y))
    chosen = np.concatenate([misled, np.flatnonzero(before.labels == y)])[:columns]
    rows = {
        "no attack": before,
        **{f"attacked,\n{kind}": of for kind, of in zip(kinds, middle)},
    }
    grid = figure.subplots(3, columns)
    for (name, result), of_row in zip(rows.items(), grid):
        of_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
        for axes, i in zip(of_row, chosen):
            axes.imshow(result.given[i].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            color = "tab:green" if result.labels[i] == y[i] else "tab:red"
            axes.set_title(
                str(result.labels[i]), color=color, fontsize=12, fontweight="bold", pad=2
            )
        for axes in of_row:
            axes.set(xticks=[], yticks=[])
    figure.suptitle("test images, and what the net takes them for", fontsize=11)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix."""
    parser = parser_of("adversarial_training.py", __doc__)
    add = parser.add_argument
    add("--pgd-epsilon", metavar="E", type=positive, default=0.1, help="default: 0.1 (ink is 1)")
    add("--fgm-epsilon", metavar="E", type=positive, default=3.0, help="default: 3 (of 22.6)")
    add("--steps", metavar="K", type=count, default=7, help="of PGD in training; default: 7")
    add("--epochs", metavar="N", type=count, default=30, help="default: 30")
    add("--seed", metavar="S", type=seed, default=0, help="default: 0")
    add(
        "--output",
        metavar="FILE.png",
        type=picture,
        default=Path("runs", "adversarial_training.png"),
        help="a file that is there is replaced; default: runs/adversarial_training.png",
    )
    arguments = parser.parse_args(argv)
    try:
        require("matplotlib", "matplotlib")
        tasks = tasks_of(arguments, load_digits())
    except UserError as error:
        parser.error(str(error))
    found = train_all(arguments, tasks)
    print(report(found, tasks))
    try:
        draw(found, tasks, arguments.output)
    except OSError as error:
        parser.error(f"--output {arguments.output}: {error}; give a place that can be written")
    print(f"the picture is {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
