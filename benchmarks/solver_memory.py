"""The memory of a compiled step of each solver, in copies of the parameters, by XLA's own analysis.

It is what XLA on this device plans for a step beside its arguments, on a net of few activations.
Run it as `KERAS_BACKEND=jax python benchmarks/solver_memory.py`; `--output FILE` also writes the
table.
"""

import argparse
import math
import pathlib

import jax
import keras
import numpy as np

import keras_cool as kc
from harness.timing import machine, settings

RATE, FIXED, FULL = 0.1, {"adaptive": False}, {"full_batch": True}
methods = kc.optimizers

SOLVERS = {
    "SGD": lambda: keras.optimizers.SGD(RATE),
    "Heun": lambda: methods.Heun(RATE),
    "Midpoint": lambda: methods.Midpoint(RATE),
    "Ralston": lambda: methods.Ralston(RATE),
    "RK4": lambda: methods.RK4(RATE),
    "RK23, fixed": lambda: methods.RK23(RATE, **FIXED),
    "RK45, fixed": lambda: methods.RK45(RATE, **FIXED),
    "Tsit5, fixed": lambda: methods.Tsit5(RATE, **FIXED),
    "RK23": lambda: methods.RK23(RATE),
    "RK45": lambda: methods.RK45(RATE),
    "Tsit5": lambda: methods.Tsit5(RATE),
    "RK23, full batch": lambda: methods.RK23(RATE, **FULL),
    "RK45, full batch": lambda: methods.RK45(RATE, **FULL),
    "Tsit5, full batch": lambda: methods.Tsit5(RATE, **FULL),
    "Chebyshev, 5 stages": lambda: methods.RungeKuttaChebyshev(RATE, 5),
    "Chebyshev, 10 stages": lambda: methods.RungeKuttaChebyshev(RATE, 10),
    "Chebyshev, order 2, 10 stages": lambda: methods.RungeKuttaChebyshev(RATE, 10, order=2),
}


def planned_copies(optimizer, layers, width=400, batch_size=2):
    """The bytes that XLA plans for a step beside its arguments, in copies of the parameters."""
    inputs = h = keras.Input((width,))
    for _ in range(layers):
        h = keras.layers.Dense(width, use_bias=False, activation="tanh")(h)
    model = kc.Model(inputs, h)
    model.compile(optimizer, loss="mse")
    data = np.ones((batch_size, width), "float32"), np.ones((batch_size, width), "float32")
    model.train_on_batch(*data)  # makes all variables
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in variables] for variables in groups)
    step = jax.jit(model.train_step, donate_argnums=0)
    plan = step.lower(state, data).compile().memory_analysis()
    extra = plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return extra / (4 * sum(math.prod(v.shape) for v in model.trainable_variables))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, help="write the table to this file too")
    arguments = parser.parse_args()
    lines = [
        machine(),
        "",
        f"`{settings()}python benchmarks/solver_memory.py`",
        "",
        "| a step | copies, 1 layer | copies, 4 layers |",
        "| --- | --- | --- |",
    ]
    for name, make in SOLVERS.items():
        one, four = (planned_copies(make(), layers) for layers in (1, 4))
        lines.append(f"| {name} | {one:.1f} | {four:.1f} |")
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    if keras.backend.backend() != "jax":
        raise SystemExit("XLA's memory analysis is to be had on JAX: set KERAS_BACKEND=jax.")
    main()
