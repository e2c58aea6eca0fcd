"""Draws the paths of Euler's, Heun's, RK4's and RK45's method in a curved valley of two weights.

    KERAS_BACKEND=jax python examples/trajectories.py
    KERAS_BACKEND=torch python examples/trajectories.py --step-size 0.09 --output valley.png

The loss of the two weights `(a, b)` is `curvature / 2 * (r - 1) ** 2 - a` with the radius `r`: a
circular valley, steep across and falling gently to the right. Gradient descent in Keras, `SGD`, is
Euler's method on its gradient flow; the flow itself is drawn as SciPy's `solve_ivp` gives it. On
the left are the paths at the same step size; on the right the distances from the flow at the same
number of gradients, where a method with fewer stages takes shorter steps. RK45 chooses its step
sizes, and is the same on both sides. It prints how far from the flow each method ends, and writes
the picture.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program.command_line import count, parser_of, picture, positive
from program.errors import UserError, backend_required, require

with backend_required("trajectories.py"):
    import keras
    from keras import ops

    import keras_cool as kc

START = 1.5 * np.array([math.cos(2.7), math.sin(2.7)])  # outside the valley, at its high end
MARKERS = "os^D"
STAGES = 4  # of RK4, by which evaluations are made equal
EQUAL_STEPS, EQUAL_EVALUATIONS = "equal step size", "equal number of gradients"


class Path2D(NamedTuple):
    """The points of a method, `(steps + 1, 2)`, their flow times, and its gradient evaluations."""

    name: str
    points: np.ndarray
    times: np.ndarray
    evaluations: int


class Valley(keras.layers.Layer):
    """A layer of two weights, whose output is their loss, whatever the input."""

    def __init__(self, curvature):
        super().__init__()
        self.curvature = curvature

    def build(self, shape):
        self.point = self.add_weight(shape=(2,), name="point")

    def call(self, x):
        a, b = self.point[0], self.point[1]
        radius = ops.sqrt(a * a + b * b)
        return 0 * x + self.curvature / 2 * (radius - 1) ** 2 - a


def follow(name, optimizer, curvature, time, steps=None):
    """Trains the two weights for so many steps, or, where `steps` is left to a method that controls
    them, until the flow time in its logs is `time`."""
    inputs = keras.Input((1,))
    layer = Valley(curvature)
    model = kc.Model(inputs, layer(inputs))
    layer.point.assign(START)
    model.compile(optimizer, loss=lambda y, value: value)
    x = np.zeros((1, 1))
    points, times, evaluations = [START], [0.0], 0
    while len(points) <= steps if steps else time - times[-1] > 1e-6 * time:
        if not steps:  # the last step ends at the time, as SciPy's does
            optimizer.learning_rate = min(float(optimizer.learning_rate), time - times[-1])
        logs = model.train_on_batch(x, x, return_dict=True)
        evaluations = int(logs.get("gradient_evaluations", len(points)))
        points.append(ops.convert_to_numpy(layer.point.value).astype("float64"))
        times.append(time * len(points[1:]) / steps if steps else min(logs["flow_time"], time))
    return Path2D(name, np.array(points), np.array(times, "float64"), evaluations)


def follow_all(step_size, steps, curvature, rtol):
    """The paths of all methods: a dictionary of the two comparisons and lists of `Path2D`."""
    time = step_size * steps
    fixed = {
        "Euler (SGD)": (keras.optimizers.SGD, 1),
        "Heun": (kc.optimizers.Heun, 2),
        "RK4": (kc.optimizers.RK4, STAGES),
    }
    control = {"rtol": rtol, "atol": rtol / 1000, "full_batch": True}
    rk45 = follow("RK45", kc.optimizers.RK45(step_size, **control), curvature, time)
    paths = {EQUAL_STEPS: [], EQUAL_EVALUATIONS: []}
    for name, (method, stages) in fixed.items():
        more = STAGES // stages
        path = follow(name, method(step_size), curvature, time, steps)
        finer = follow(name, method(step_size / more), curvature, time, more * steps)
        paths[EQUAL_STEPS].append(path)
        paths[EQUAL_EVALUATIONS].append(finer)
    return {title: [*of_title, rk45] for title, of_title in paths.items()}


def valley(a, b, curvature):
    """The loss of `Valley` in NumPy."""
    return curvature / 2 * (np.hypot(a, b) - 1) ** 2 - a


def slope(point, curvature):
    """Its gradient, worked out by hand."""
    radius = np.hypot(*point)
    return curvature * (radius - 1) / radius * point - np.array([1.0, 0.0])


def exact_flow(times, curvature):
    """The points of the gradient flow at the given times, by SciPy, `(times, 2)`."""
    from scipy.integrate import solve_ivp

    return solve_ivp(
        lambda t, p: -slope(p, curvature),
        (0, times[-1]),
        START,
        method="DOP853",
        t_eval=times,
        rtol=1e-10,
        atol=1e-12,
    ).y.T


def distances(path, curvature):
    """How far each point lies from where the flow is at its time."""
    return np.linalg.norm(path.points - exact_flow(path.times, curvature), axis=1)


def report(paths, curvature):
    """The distances from the flow at its end, as a table."""
    lines = [f"{'':27}{'method':13}{'steps':>6}{'gradients':>11}{'distance from the flow':>24}"]
    for title, of_title in paths.items():
        for path in of_title:
            distance = distances(path, curvature)[-1]
            steps = len(path.points) - 1
            line = f"{title:27}{path.name:13}{steps:6}{path.evaluations:11}{distance:24.4g}"
            lines.append(line)
    return "\n".join(lines)


def draw(paths, curvature, output):
    """Draws the paths over the contours of the loss, and the distances from the flow."""
    from matplotlib.figure import Figure  # without pyplot: it draws with Agg, on any machine

    figure = Figure(figsize=(11.5, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
    flow = exact_flow(np.linspace(0, paths[EQUAL_STEPS][0].times[-1], 400), curvature)
    points = np.concatenate([flow, *(path.points for path in paths[EQUAL_STEPS])])
    points = points[np.hypot(*points.T) < 2]  # of a method that is thrown far out, what fits
    (a_low, b_low), (a_high, b_high) = points.min(axis=0) - 0.2, points.max(axis=0) + 0.2
    a, b = np.meshgrid(np.linspace(a_low, a_high, 300), np.linspace(b_low, b_high, 300))
    loss = valley(a, b, curvature)
    levels = loss.min() + np.ptp(loss) * np.linspace(0, 1, 12) ** 2
    left.contourf(a, b, loss, levels, cmap="Blues", alpha=0.5)
    left.plot(*flow.T, color="black", linewidth=6, alpha=0.25, label="the gradient flow")
    for path, marker in zip(paths[EQUAL_STEPS], MARKERS):
        label = f"{path.name}: {len(path.points) - 1} steps, {path.evaluations} gradients"
        left.plot(*path.points.T, marker=marker, ms=4, linewidth=1, label=label)
    left.plot(*START, "k*", ms=12)
    left.set(xlim=(a_low, a_high), ylim=(b_low, b_high), aspect="equal")
    left.set(xlabel="first weight", ylabel="second weight")
    left.set_title(f"paths, {EQUAL_STEPS} (RK45 chooses its own)", fontsize=11)
    for path, marker in zip(paths[EQUAL_EVALUATIONS], MARKERS):
        label = f"{path.name}: {len(path.points) - 1} steps, {path.evaluations} gradients"
        distance = distances(path, curvature)[1:]
        right.plot(path.times[1:], distance, marker=marker, ms=3, linewidth=1, label=label)
    right.set(yscale="log", xlabel="flow time", ylabel="distance from the gradient flow")
    right.set_title(f"distances, {EQUAL_EVALUATIONS} (RK45 apart)", fontsize=11)
    right.grid(alpha=0.3)
    for axes in (left, right):
        axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; gives the exit code: 0, 2 for what the user can fix."""
    parser = parser_of("trajectories.py", __doc__)
    add = parser.add_argument
    add("--step-size", metavar="H", type=positive, default=0.095, help="default: 0.095")
    add("--steps", metavar="N", type=count, default=31, help="of that size; default: 31")
    add("--curvature", metavar="K", type=positive, default=20.0, help="default: 20")
    add("--rtol", metavar="R", type=positive, default=1e-3, help="of RK45; default: 0.001")
    add(
        "--output",
        metavar="FILE.png",
        type=picture,
        default=Path("runs", "trajectories.png"),
        help="a file that is there is replaced; default: runs/trajectories.png",
    )
    arguments = parser.parse_args(argv)
    try:
        for package in ("scipy", "matplotlib"):
            require(package, package)
    except UserError as error:
        parser.error(str(error))
    sizes = arguments.step_size, arguments.steps, arguments.curvature
    paths = follow_all(*sizes, arguments.rtol)
    print(report(paths, arguments.curvature))
    try:
        draw(paths, arguments.curvature, arguments.output)
    except OSError as error:
        parser.error(f"--output {arguments.output}: {error}; give a place that can be written")
    print(f"the picture is {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
