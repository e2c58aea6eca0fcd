"""Full-batch methods on the physics-informed net of `examples/physics_informed.py`.

From the same random weights and points, SciPy's L-BFGS-B, `LBFGS` and `SSBroyden` have a number of
gradient evaluations. `LevenbergMarquardt` has the time that `LBFGS` took, compilation left out, and
the points in micro-batches, so that a residual costs a pass through its own micro-batch. The table
has medians over the seeds, and the smallest and the largest loss. Run it as `KERAS_BACKEND=jax
python benchmarks/physics_informed_losses.py`; `--output FILE` also writes the table.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops
from scipy.optimize import minimize

import keras_cool as kc
from harness.timing import machine, settings

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from physics_informed import (
    BOUNDARY,
    INSIDE,
    WEIGHT,
    Poisson,
    Run,
    laplacian,
    points_of,
    source,
    values_of,
)

COLUMNS = ["method", "evaluations", "seconds", "loss", "smallest", "largest", "relative error"]


class Budget(keras.callbacks.Callback):
    """Stops after so many evaluations, or seconds after the first step, and keeps the losses."""

    def __init__(self, evaluations, seconds):
        super().__init__()
        self.limits, self.losses = (evaluations, seconds), []
        self.evaluations = self.seconds = 0

    def on_epoch_end(self, epoch, logs):
        self.losses.append(float(logs["loss"]))
        now = time.perf_counter()
        self.start = now if epoch == 0 else self.start
        self.evaluations, self.seconds = int(logs["gradient_evaluations"]), now - self.start
        if self.evaluations >= self.limits[0] or self.seconds >= self.limits[1]:
            self.model.stop_training = True


class PointByPoint(Poisson):
    """The same loss, of all points in one batch: a third column tells those on the boundary."""

    def call(self, points):
        return self.net(points[:, :2])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        inside = laplacian(self.net, x[:, :2]) + source(x)
        scales = [float(np.sqrt(n)) for n in (1 / INSIDE, WEIGHT / BOUNDARY)]
        residuals = ops.where(x[:, 2] > 0, scales[1] * self.call(x)[:, 0], scales[0] * inside)
        return (INSIDE + BOUNDARY) * ops.mean(kc.squared_residuals(residuals))


def by_residuals(method, seed, evaluations, seconds):
    """The same as `ours`, with the points in micro-batches."""
    keras.utils.set_random_seed(seed)
    points, boundary = points_of(seed)
    model = PointByPoint(boundary)
    model(points)
    flags = np.repeat([0, 1], [INSIDE, BOUNDARY])[:, None].astype(points.dtype)
    points = np.hstack([np.vstack([points, boundary]), flags])
    model.compile(method, microbatch_size=35)
    return run(model, points, evaluations, seconds)


def ours(method, seed, evaluations, seconds):
    """Trains with a method; the evaluations, the seconds, the loss and the error."""
    model, points = model_of(seed)
    model.compile(method)
    return run(model, points, evaluations, seconds)


def run(model, points, evaluations, seconds):
    """Trains a model."""
    budget = Budget(evaluations, seconds)
    arguments = {"batch_size": len(points), "epochs": evaluations, "shuffle": False, "verbose": 0}
    model.fit(points, callbacks=[budget], **arguments)
    last = float(ops.convert_to_numpy(model.compute_loss(ops.convert_to_tensor(points))))
    return budget.evaluations, budget.seconds, min(last, *budget.losses), error_of(model)


def model_of(seed):
    """A new model, built, and its points."""
    keras.utils.set_random_seed(seed)
    points, boundary = points_of(seed)
    model = Poisson(boundary)
    model(points)
    return model, points


def error_of(model):
    """The relative error of the solution."""
    return Run([], [], values_of(model)).error


def scipy(seed, evaluations):
    """Minimises the same loss by SciPy's L-BFGS-B; what `ours` gives."""
    model, points = model_of(seed)
    variables, points = model.trainable_variables, ops.convert_to_tensor(points)

    def loss(weights):
        def net(x):
            return model.net.stateless_call(weights, [], x)[0]

        inside = laplacian(net, points) + source(points)
        return ops.mean(inside**2) + WEIGHT * ops.mean(net(model.boundary) ** 2)

    value_and_grad = compiled(kc.value_and_grad(loss))
    start = np.concatenate([v.numpy().ravel() for v in variables])
    best, begin, spent = [np.inf, start], None, 0

    def function(vector):
        nonlocal begin, spent
        parts = split(vector, variables)
        weights = [ops.convert_to_tensor(p, v.dtype) for p, v in zip(parts, variables, strict=True)]
        value, gradients = value_and_grad(weights)
        value = float(ops.convert_to_numpy(value))
        begin, spent = begin or time.perf_counter(), spent + 1
        if value < best[0]:
            best[:] = value, vector.copy()
        gradient = np.concatenate([ops.convert_to_numpy(g).ravel() for g in gradients])
        return value, gradient.astype("float64")

    options = {"maxcor": 10, "maxfun": evaluations, "maxiter": evaluations, "ftol": 0, "gtol": 0}
    minimize(function, start.astype("float64"), jac=True, method="L-BFGS-B", options=options)
    for variable, part in zip(variables, split(best[1], variables), strict=True):
        variable.assign(part)
    return spent, time.perf_counter() - begin, best[0], error_of(model)


def split(vector, variables):
    """The entries of a vector as arrays of the shapes of variables."""
    sizes = [int(np.prod(v.shape)) for v in variables]
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return [part.reshape(v.shape) for part, v in zip(parts, variables, strict=True)]


def compiled(function):
    """A function of lists of tensors, compiled where the backend compiles."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    return function


def line(name, results):
    """A line of the table: the results of the seeds."""
    evaluations, seconds, losses, errors = zip(*results, strict=True)
    middle = [statistics.median(values) for values in (evaluations, seconds, losses, errors)]
    numbers = f"{middle[0]:.0f} | {middle[1]:.1f} | {middle[2]:.1e}"
    return f"| {name} | {numbers} | {min(losses):.1e} | {max(losses):.1e} | {middle[3]:.1e} |"


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evaluations", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.float64:
        kc.enable_float64()
    limit, results = arguments.evaluations, {}
    for seed in range(arguments.seeds):
        of_seed = {"SciPy L-BFGS-B": scipy(seed, limit)}
        of_seed["LBFGS"] = ours(kc.optimizers.LBFGS(), seed, limit, np.inf)
        of_seed["SSBroyden"] = ours(kc.optimizers.SSBroyden(), seed, limit, np.inf)
        method = kc.optimizers.LevenbergMarquardt(max_iterations=5)
        of_seed["LevenbergMarquardt"] = by_residuals(method, seed, limit, of_seed["LBFGS"][1])
        for name, result in of_seed.items():
            results.setdefault(name, []).append(result)
    options = f"--evaluations {limit} --seeds {arguments.seeds}"
    options += " --float64" if arguments.float64 else ""
    command = f"{settings()}python benchmarks/physics_informed_losses.py {options}"
    lines = [machine(), "", f"`{command}`", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    lines += [line(name, of_seeds) for name, of_seeds in results.items()]
    print("\n".join(lines))
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
