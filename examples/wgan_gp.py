"""Trains a Wasserstein GAN with a gradient penalty on points of a spiral in the plane.

    KERAS_BACKEND=jax python examples/wgan_gp.py
    KERAS_BACKEND=torch python examples/wgan_gp.py --critic-steps 5 --output runs/wgan_gp.png

The critic scores points, real ones higher than generated ones. As long as its slope is at most 1,
the difference of the mean scores is at most the Wasserstein distance, and the best critic reaches
it. The penalty keeps the slope near 1: a gradient by the inputs, in a loss that is differentiated
by the weights. The generator takes one step after `--critic-steps` of the critic, which see the
same real points and new noise. Each of the two has its own optimizer. The table compares the
critic's distance with that of the best transport from generated to real points, which SciPy finds.
The picture shows both, and the generated points above the scores of the critic.

Reference: Gulrajani and others, 2017, "Improved Training of Wasserstein GANs", algorithm 1.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program.command_line import count, parser_of, picture, positive, seed
from program.errors import UserError, backend_required, require

with backend_required("wgan_gp.py"):
    import keras
    from keras import ops

    import keras_cool as kc

POINTS, COMPARED, BATCH, NOISE, RATE = 4096, 1024, 256, 2, 1e-3
SIDE = np.linspace(-1.5, 1.5, 61)  # of the part of the plane that is drawn


class WassersteinGAN(kc.Model):
    """A generator, which the optimizer of `compile` is for, and a critic with one of its own."""

    def __init__(self, generator, critic, critic_optimizer, critic_steps, penalty, seed):
        super().__init__()
        self.generator, self.critic = generator, critic
        self.critic_optimizer, self.critic_steps = critic_optimizer, critic_steps
        self.critic_optimizer.build(critic.trainable_variables)
        self.penalty, self.draws = penalty, keras.random.SeedGenerator(seed)
        self.built = True  # both nets are

    def call(self, noise):
        return self.generator(noise)

    def multi_gradient_step(self, x, y, sample_weight):
        for _ in range(self.critic_steps):
            variables, batch = self.critic.trainable_variables, (x, *self.noise(x))
            (loss, distance), gradients = self.value_and_grad(
                self.critic_loss, variables, has_aux=True, batch=batch
            )
            self.apply_gradients(gradients, variables, optimizer=self.critic_optimizer)
        variables, (noise, _) = self.generator.trainable_variables, self.noise(x)
        _, gradients = self.value_and_grad(self.generator_loss, variables, batch=(noise,))
        self.apply_gradients(gradients, variables)
        return {"loss": loss, "distance": distance}

    def critic_loss(self, real, noise, share):
        fake = self.generator(noise)
        distance = ops.mean(self.critic(real)) - ops.mean(self.critic(fake))
        total_score = kc.value_and_grad(lambda tensors: ops.sum(self.critic(tensors[0])))
        _, [slope] = total_score([share * real + (1 - share) * fake])
        norm = ops.sqrt(ops.sum(ops.square(slope), axis=-1) + 1e-12)
        return self.penalty * ops.mean(ops.square(norm - 1)) - distance, distance

    def generator_loss(self, noise):
        return -ops.mean(self.critic(self.generator(noise)))

    def noise(self, x):
        """Noise for as many points, and the share of the real point in each mixture."""
        points = ops.shape(x)[0]
        noise = keras.random.normal((points, NOISE), seed=self.draws)
        return noise, keras.random.uniform((points, 1), seed=self.draws)


def build_net(inputs, outputs):
    """A dense net with three hidden layers."""
    hidden = [keras.layers.Dense(128, activation="relu") for _ in range(3)]
    last = keras.layers.Dense(outputs, dtype="float32")  # in mixed precision too
    return keras.Sequential([keras.Input((inputs,)), *hidden, last])


def build_gan(critic_steps, penalty, seed, decay_steps):
    """The GAN, compiled; the learning rates of both nets fall to 0."""
    keras.utils.set_random_seed(seed)
    generator_adam, critic_adam = (
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(RATE, decay_steps * steps),
            beta_1=0.0,
            beta_2=0.9,
        )
        for steps in (1, critic_steps)
    )
    generator, critic = build_net(NOISE, 2), build_net(2, 1)
    gan = WassersteinGAN(generator, critic, critic_adam, critic_steps, penalty, seed)
    gan.compile(generator_adam)
    gan.optimizer.build(generator.trainable_variables)  # it has no part in the critic
    return gan


def spiral(points, rng):
    """Points along a spiral of one and a half turns, with noise, shape `(points, 2)`."""
    angle = 1.5 * np.pi * (1 + 2 * rng.random(points))
    roll = np.stack([np.cos(angle), np.sin(angle)], axis=1) * angle[:, None] / (4.5 * np.pi)
    return (1.25 * roll + rng.normal(scale=0.02, size=roll.shape)).astype("float32")


class Moment(NamedTuple):
    """What there is after an epoch: generated points, scores on a grid, and both distances."""

    points: np.ndarray
    scores: np.ndarray
    by_critic: float
    by_transport: float


class Watch(keras.callbacks.Callback):
    """Generates from the same noise at each 24th of the epochs, and prints every third time."""

    def __init__(self, epochs, seed):
        super().__init__()
        rng = np.random.default_rng(seed + 1)
        self.kept = {max(1, round(epochs * part / 24)): part for part in range(24, 0, -1)}
        self.noise = rng.normal(size=(COMPARED, NOISE)).astype("float32")
        self.real, other = spiral(COMPARED, rng), spiral(COMPARED, rng)
        self.smallest = transport_distance(self.real, other)
        self.grid = np.stack(np.meshgrid(SIDE, SIDE), axis=-1).reshape(-1, 2).astype("float32")
        self.moments = {}  # by epoch

    def on_train_begin(self, logs=None):
        print(f"{'epoch':>5}{'critic steps':>14}{'distance by critic':>20}{'by transport':>14}")

    def on_epoch_end(self, epoch, logs=None):
        epoch += 1
        if epoch in self.kept:
            moment = self.moments[epoch] = self.moment()
            steps = int(ops.convert_to_numpy(self.model.critic_optimizer.iterations))
            distances = f"{moment.by_critic:20.3f}{moment.by_transport:14.3f}"
            if self.kept[epoch] % 3 == 0 or len(self.kept) <= 8:
                print(f"{epoch:5}{steps:14}{distances}", flush=True)

    def moment(self):
        points = ops.convert_to_numpy(self.model.generator(self.noise))
        scores = [self.model.critic(x) for x in (self.grid, self.real, points)]
        on_grid, real, fake = map(ops.convert_to_numpy, scores)
        by_critic = float(real.mean() - fake.mean())
        return Moment(points, on_grid, by_critic, transport_distance(points, self.real))


def transport_distance(some, others):
    """The Wasserstein distance of two sets of as many points, by the best assignment."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    lengths = cdist(some, others)
    return float(lengths[linear_sum_assignment(lengths)].mean())


def train(arguments):
    """Trains the GAN; gives the callback that watched it."""
    points = spiral(POINTS, np.random.default_rng(arguments.seed))
    steps = arguments.epochs * -(-POINTS // BATCH)
    gan = build_gan(arguments.critic_steps, arguments.penalty, arguments.seed, steps)
    watch = Watch(arguments.epochs, arguments.seed)
    gan.fit(points, batch_size=BATCH, epochs=arguments.epochs, callbacks=[watch], verbose=0)
    return watch


def draw(watch, output):
    """Draws the generated points at three moments, and the distances at all."""
    from matplotlib.figure import Figure  # without pyplot: it draws with Agg, on any machine

    epochs = list(watch.moments)
    figure = Figure(figsize=(14, 3.8), layout="constrained")
    *planes, curves = figure.subplots(1, 4)
    shown = [epochs[round(part * (len(epochs) - 1))] for part in (0, 0.25, 1)]
    for axes, epoch in zip(planes, shown):
        moment = watch.moments[epoch]
        scores = moment.scores.reshape(len(SIDE), len(SIDE))
        axes.contourf(SIDE, SIDE, scores, levels=14, cmap="Greys", alpha=0.5)
        axes.scatter(*watch.real.T, s=7, color="tab:green", label="real points")
        axes.scatter(*moment.points.T, s=7, color="tab:orange", label="generated points")
        axes.set(xlim=SIDE[[0, -1]], ylim=SIDE[[0, -1]], xticks=[], yticks=[], aspect="equal")
        axes.set_title(f"epoch {epoch}", fontsize=11)
    planes[0].set_xlabel("darker: the critic takes it for more real")
    planes[0].legend(loc="lower left", fontsize=9)
    moments = watch.moments.values()
    curves.plot(epochs, [m.by_transport for m in moments], ".-", label="best transport (SciPy)")
    curves.plot(epochs, [m.by_critic for m in moments], ".-", label="critic")
    curves.axhline(watch.smallest, color="gray", ls=":", label="two sets of real points")
    curves.set(xlabel="epoch", ylim=(0, None))
    curves.set_title("Wasserstein distance from generated to real", fontsize=11)
    curves.legend(fontsize=9)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=80)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix."""
    parser = parser_of("wgan_gp.py", __doc__)
    add = parser.add_argument
    add(
        "--critic-steps",
        metavar="K",
        type=count,
        default=5,
        help="for one of the generator; default: 5",
    )
    add("--penalty", metavar="P", type=positive, default=0.1, help="its weight; default: 0.1")
    add("--epochs", metavar="N", type=count, default=60, help="default: 60")
    add("--seed", metavar="S", type=seed, default=0, help="default: 0")
    add(
        "--output",
        metavar="FILE.png",
        type=picture,
        default=Path("runs", "wgan_gp.png"),
        help="a file that is there is replaced; default: runs/wgan_gp.png",
    )
    arguments = parser.parse_args(argv)
    try:
        require("matplotlib", "matplotlib")
        require("scipy", "scipy")
    except UserError as error:
        parser.error(str(error))
    watch = train(arguments)
    try:
        draw(watch, arguments.output)
    except OSError as error:
        parser.error(f"--output {arguments.output}: {error}; give a place that can be written")
    print(f"the picture is {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
