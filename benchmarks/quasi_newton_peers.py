"""An iteration of L-BFGS by keras_cool, and by optax (JAX), PyTorch or SciPy (TensorFlow).

Each side minimises the same full-batch loss from the same weights, with 10 pairs and a strong Wolfe
line search. optax runs all its iterations in one compiled loop; PyTorch's optimizer has a closure
over the same Keras model; SciPy's L-BFGS-B drives a compiled `tf.function`. Run it as
`KERAS_BACKEND=jax python benchmarks/quasi_newton_peers.py`; `--output FILE` also writes the table.
"""

import argparse
import itertools
import pathlib
import statistics
import time

import keras
import numpy as np

import keras_cool as kc
from harness.timing import in_turn, machine, milliseconds, ratio, settings

# The samples, and the widths of a net with tanh between the layers: 2,041 and 973,001 weights.
NETS = {"small": (256, (8, 40, 40, 1)), "large": (512, (128, 900, 950, 1))}
ITERATIONS = 20  # of a training step
MEMORY = 10
COLUMNS = ["net", "peer", "evaluations an iteration", "theirs", "ms an iteration", "theirs"]
COLUMNS += ["ratio", "quartiles"]


class Problem:
    """The data, and a net with its first weights."""

    def __init__(self, samples, widths):
        rng = np.random.default_rng(0)
        self.widths = widths
        x = rng.normal(size=(samples, widths[0])).astype("float32")
        self.x = keras.ops.convert_to_tensor(x)
        self.y = keras.ops.convert_to_tensor(np.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3])
        self.start = self.model().get_weights()

    def model(self):
        keras.utils.set_random_seed(0)
        hidden = [keras.layers.Dense(n, activation="tanh") for n in self.widths[1:-1]]
        net = [keras.Input((self.widths[0],)), *hidden, keras.layers.Dense(self.widths[-1])]
        return kc.inject(keras.Sequential(net))

    def loss(self, weights):
        """The mean squared error, of the weights as a list, in operators alone."""
        h = self.x
        for i in range(0, len(weights), 2):
            h = h @ weights[i] + weights[i + 1]
            h = keras.ops.tanh(h) if i + 2 < len(weights) else h
        return keras.ops.mean((h - self.y) ** 2)


class Side:
    """`iterate()` gives the seconds of an iteration, from the start; `evaluations` how many it
    took."""

    def timed(self, run):
        begin = time.perf_counter()
        iterations, evaluations = run()
        self.evaluations.append(evaluations / iterations)
        return (time.perf_counter() - begin) / iterations


class Ours(Side):
    name = "keras_cool"

    def __init__(self, problem, steps):
        self.problem, self.steps, self.evaluations = problem, steps, []
        self.model = problem.model()
        method = kc.optimizers.LBFGS(MEMORY, ITERATIONS, gradient_tolerance=0, change_tolerance=0)
        self.model.compile(method, loss="mse")
        method.build(self.model.trainable_variables)
        self.state = [v.numpy() for v in method.variables]

    def iterate(self):
        self.model.set_weights(self.problem.start)
        for variable, value in zip(self.model.optimizer.variables, self.state):
            variable.assign(value)
        return self.timed(self.run)

    def run(self):
        batches = ((self.problem.x, self.problem.y) for _ in itertools.count())
        logs = self.model.fit(batches, steps_per_epoch=self.steps, shuffle=False, verbose=0).history
        return logs["quasi_newton_iterations"][-1], logs["gradient_evaluations"][-1]


class Optax(Side):
    name = "optax.lbfgs"

    def __init__(self, problem, steps):
        import jax
        import jax.numpy as jnp
        import optax

        self.steps, self.evaluations = steps, []
        optimizer = optax.lbfgs(memory_size=MEMORY)
        value_and_grad = optax.value_and_grad_from_state(problem.loss)

        def iteration(_, carry):
            weights, state, count = carry
            value, gradient = value_and_grad(weights, state=state)
            updates, state = optimizer.update(
                gradient, state, weights, value=value, grad=gradient, value_fn=problem.loss
            )
            return (
                optax.apply_updates(weights, updates),
                state,
                count + state[-1].info.num_linesearch_steps,
            )

        @jax.jit
        def minimise(weights):
            carry = weights, optimizer.init(weights), 0
            return jax.lax.fori_loop(0, steps * ITERATIONS, iteration, carry)

        start = [jnp.asarray(w) for w in problem.start]
        self.minimise = lambda: jax.block_until_ready(minimise(start))

    def iterate(self):
        return self.timed(self.run)

    def run(self):
        _, _, count = self.minimise()
        return self.steps * ITERATIONS, int(count)


class Torch(Side):
    name = "torch.optim.LBFGS"

    def __init__(self, problem, steps):
        self.problem, self.steps, self.evaluations = problem, steps, []
        self.model = problem.model()
        self.model.compile(loss="mse")

    def iterate(self):
        import torch

        self.model.set_weights(self.problem.start)
        self.optimizer = torch.optim.LBFGS(
            [v.value for v in self.model.trainable_variables],
            max_iter=ITERATIONS,
            history_size=MEMORY,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )
        return self.timed(self.run)

    def run(self):
        x, y, count = self.problem.x, self.problem.y, 0

        def closure():
            nonlocal count
            count += 1
            self.optimizer.zero_grad()
            loss = self.model.compute_loss(x, y, self.model(x, training=True))
            loss.backward()
            return loss

        for _ in range(self.steps):
            self.optimizer.step(closure)
        (state,) = self.optimizer.state.values()
        return state["n_iter"], count


class SciPy(Side):
    name = "scipy L-BFGS-B"

    def __init__(self, problem, steps):
        import tensorflow as tf

        self.steps, self.evaluations = steps, []
        shapes, sizes = [w.shape for w in problem.start], [w.size for w in problem.start]
        self.start = np.concatenate([w.ravel() for w in problem.start])

        @tf.function(jit_compile=True)
        def value_and_gradient(flat):
            with tf.GradientTape() as tape:
                tape.watch(flat)
                parts = zip(tf.split(flat, sizes), shapes)
                loss = problem.loss([tf.reshape(part, shape) for part, shape in parts])
            return loss, tape.gradient(loss, flat)

        def function(flat):
            loss, gradient = value_and_gradient(tf.constant(flat, "float32"))
            return float(loss), gradient.numpy().astype("float64")

        self.function = function

    def iterate(self):
        return self.timed(self.run)

    def run(self):
        from scipy.optimize import minimize

        options = {"maxcor": MEMORY, "maxiter": self.steps * ITERATIONS, "ftol": 0, "gtol": 0}
        found = minimize(self.function, self.start, jac=True, method="L-BFGS-B", options=options)
        return found.nit, found.nfev


PEERS = {"jax": Optax, "torch": Torch, "tensorflow": SciPy}


def measure(net, steps, rounds):
    """Gives the row of the table for one net."""
    problem = Problem(*NETS[net])
    ours = Ours(problem, steps)
    peer = PEERS[keras.backend.backend()](problem, steps)
    seconds = in_turn({"ours": ours.iterate, "peer": peer.iterate}, rounds)
    median, low, high = ratio(seconds, "ours", "peer")
    counts = [statistics.median(side.evaluations) for side in (ours, peer)]
    weights = sum(w.size for w in problem.start)
    return (
        f"| {net}, {weights:,} weights | {peer.name} | {counts[0]:.2f} | {counts[1]:.2f} | "
        f"{milliseconds(seconds['ours']):.2f} | {milliseconds(seconds['peer']):.2f} | "
        f"{median:.2f} | {low:.2f} to {high:.2f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--steps", type=int, default=4, help=f"of {ITERATIONS} iterations each")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=pathlib.Path, help="write the table to this file too")
    arguments = parser.parse_args()
    options = f"--nets {' '.join(arguments.nets)} --steps {arguments.steps} "
    options += f"--rounds {arguments.rounds}"
    lines = [
        machine(),
        "",
        f"`{settings()}python benchmarks/quasi_newton_peers.py {options}`",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
    ]
    lines += [measure(net, arguments.steps, arguments.rounds) for net in arguments.nets]
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
