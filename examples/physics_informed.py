"""Solves Poisson's equation with a physics-informed net: Adam, L-BFGS and the Broyden method.

    KERAS_BACKEND=jax python examples/physics_informed.py
    KERAS_BACKEND=torch python examples/physics_informed.py --float64 --evaluations 3000

The equation is -Laplace(u) = f on the unit square with u = 0 on its boundary, and the solution is
u = sin(pi x) sin(2 pi y). The net has three hidden layers of 24 tanh units. Its loss is the mean
squared residual of the equation at 500 random points inside, plus 100 times the mean square of u at
200 points on the boundary. Three runs have the same number of gradient evaluations: Adam with a
cosine schedule; Adam, then `kc.optimizers.LBFGS`; Adam, then `kc.optimizers.SSBroyden`. It prints a
table, and writes a picture: the solution, its error, and the loss against gradient evaluations.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program.command_line import count, parser_of, picture, seed
from program.errors import UserError, backend_required, require

with backend_required("physics_informed.py"):
    import keras
    from keras import ops

    import keras_cool as kc

INSIDE, BOUNDARY, WEIGHT = 500, 200, 100.0
RATE = 5e-3  # of Adam
ITERATIONS = 10  # of a step of L-BFGS or SSBroyden, between two points of a curve
LINE = np.linspace(0, 1, 101)
GRID = np.stack(np.meshgrid(LINE, LINE, indexing="ij"), -1)  # where the solution is looked at


def solution(points):
    """u, in NumPy."""
    return np.sin(math.pi * points[..., 0]) * np.sin(2 * math.pi * points[..., 1])


def source(points):
    """f = -Laplace(u), of tensors."""
    waves = ops.sin(math.pi * points[:, 0]) * ops.sin(2 * math.pi * points[:, 1])
    return 5 * math.pi**2 * waves


class Poisson(kc.Model):
    """The net, whose loss is the residual of the equation and the values on the boundary."""

    def __init__(self, boundary):
        super().__init__()
        self.boundary = boundary
        hidden = [keras.layers.Dense(24, activation="tanh") for _ in range(3)]
        self.net = keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(1)])

    def call(self, points):
        return self.net(points)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        # `squared_residuals` squares. It lets kc.optimizers.LevenbergMarquardt train the net too.
        inside = kc.squared_residuals(laplacian(self.net, x) + source(x))
        boundary = kc.squared_residuals(self.net(self.boundary))
        return ops.mean(inside) + WEIGHT * ops.mean(boundary)


def laplacian(function, points):
    """The sum of the second derivatives of a function at each of the points."""

    def slopes(tensors, k):
        """The derivatives along one axis, summed: each point has a row of its own."""
        _, (gradient,) = kc.value_and_grad(lambda t: ops.sum(function(t[0])))(tensors)
        return ops.sum(gradient[:, k])

    total = 0
    for k in range(points.shape[1]):
        _, (second,) = kc.value_and_grad(lambda tensors, k=k: slopes(tensors, k))([points])
        total += second[:, k]
    return total


class Run(NamedTuple):
    """What a run has come to."""

    evaluations: list  # after each step
    losses: list  # before it
    values: np.ndarray  # u at the points of `GRID`

    @property
    def error(self):
        """The norm of the error over that of the solution."""
        expected = solution(GRID)
        return float(np.linalg.norm(self.values - expected) / np.linalg.norm(expected))


class Curve(keras.callbacks.Callback):
    """The loss before each step against the gradient evaluations so far; stops when they are
    spent."""

    def __init__(self, limit, before=0):
        super().__init__()
        self.limit, self.before = limit, before
        self.evaluations, self.losses = [], []

    def on_epoch_end(self, epoch, logs=None):
        spent = self.before + int(logs.get("gradient_evaluations", epoch + 1))  # Adam logs none
        self.evaluations.append(spent)
        self.losses.append(float(logs["loss"]))
        if spent >= self.limit:
            self.model.stop_training = True


def train(method, of_adam, limit, seed):
    """Trains with Adam, then with another method if there is one; gives the `Run`."""
    keras.utils.set_random_seed(seed)
    points, boundary = points_of(seed)
    model = Poisson(boundary)
    schedule = keras.optimizers.schedules.CosineDecay(RATE, of_adam)
    adam = keras.optimizers.Adam(schedule if method is None else RATE)
    curves = [fit(model, adam, points, Curve(of_adam))]
    if method is not None:
        curves.append(fit(model, method, points, Curve(limit, before=of_adam)))
    return Run(
        [n for curve in curves for n in curve.evaluations],
        [loss for curve in curves for loss in curve.losses],
        values_of(model),
    )


def points_of(seed):
    """Random points inside the square, and on its boundary."""
    rng, dtype = np.random.default_rng(seed), keras.config.floatx()
    points = rng.uniform(size=(INSIDE, 2)).astype(dtype)
    along, side = rng.uniform(size=BOUNDARY), np.arange(BOUNDARY) % 4
    boundary = np.stack(
        [np.where(side < 2, along, side % 2), np.where(side < 2, side % 2, along)], axis=1
    )
    return points, boundary.astype(dtype)


def values_of(model):
    """u at the points of `GRID`."""
    points = GRID.reshape(-1, 2).astype(keras.config.floatx())
    return model.predict(points, batch_size=5000, verbose=0).reshape(GRID.shape[:2])


def fit(model, optimizer, points, curve):
    """Trains on all points at once, a step an epoch, until the evaluations are spent."""
    model.compile(optimizer)
    model.fit(
        points,
        batch_size=len(points),
        epochs=curve.limit,
        shuffle=False,
        callbacks=[curve],
        verbose=0,
    )
    return curve


def train_all(arguments):
    """Trains all three: a dictionary of `Run`s."""
    first, limit = arguments.adam, arguments.evaluations
    methods = {
        "Adam": (None, limit),
        "Adam, then LBFGS": (kc.optimizers.LBFGS(max_iterations=ITERATIONS), first),
        "Adam, then SSBroyden": (kc.optimizers.SSBroyden(max_iterations=ITERATIONS), first),
    }
    runs = {}
    progress = keras.utils.Progbar(len(methods), unit_name="run")
    for name, (method, of_adam) in methods.items():
        runs[name] = train(method, of_adam, limit, arguments.seed)
        progress.add(1)
    return runs


def report(runs):
    """The ends of the runs, as a table."""
    lines = [f"{'':22}{'gradients':>11}{'loss':>12}{'relative error':>17}"]
    for name, run in runs.items():
        numbers = f"{run.evaluations[-1]:11}{run.losses[-1]:12.1e}{run.error:17.1e}"
        lines.append(f"{name:22}{numbers}")
    return "\n".join(lines)


def draw(runs, output):
    """Draws solution and error of the last run, and the losses of all against evaluations."""
    from matplotlib.figure import Figure  # without pyplot: it draws with Agg, on any machine

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    (last, run), extent = list(runs.items())[-1], (0, 1, 0, 1)
    drawn = left.imshow(run.values.T, origin="lower", extent=extent, cmap="RdBu_r")
    figure.colorbar(drawn, ax=left, shrink=0.8)
    left.set_title(f"u: {last}", fontsize=11)
    error = np.abs(run.values - solution(GRID))
    drawn = middle.imshow(error.T, origin="lower", extent=extent, cmap="viridis")
    figure.colorbar(drawn, ax=middle, shrink=0.8, format="%.1e")
    middle.set_title("its error", fontsize=11)
    for name, one in runs.items():
        right.semilogy(one.evaluations, one.losses, label=name)
    right.set(xlabel="gradient evaluations", ylabel="loss")
    right.grid(alpha=0.3)
    right.legend(fontsize=9)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=90)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix."""
    parser = parser_of("physics_informed.py", __doc__)
    add = parser.add_argument
    add("--evaluations", metavar="N", type=count, default=1500, help="of each run; default: 1500")
    add("--adam", metavar="N", type=count, default=300, help="of Adam before; default: 300")
    add("--float64", action="store_true", help="compute in float64; default: float32")
    add("--seed", metavar="S", type=seed, default=0, help="default: 0")
    add(
        "--output",
        metavar="FILE.png",
        type=picture,
        default=Path("runs", "physics_informed.png"),
        help="a file that is there is replaced; default: runs/physics_informed.png",
    )
    arguments = parser.parse_args(argv)
    if arguments.adam >= arguments.evaluations:
        parser.error("--adam: give less than --evaluations, which are those of a whole run")
    try:
        require("matplotlib", "matplotlib")
    except UserError as error:
        parser.error(str(error))
    if arguments.float64:
        kc.enable_float64()
    runs = train_all(arguments)
    print(report(runs))
    try:
        draw(runs, arguments.output)
    except OSError as error:
        parser.error(f"--output {arguments.output}: {error}; give a place that can be written")
    print(f"the picture is {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
