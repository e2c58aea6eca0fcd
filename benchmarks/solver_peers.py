"""The gradient flow of one network by keras_cool, and by diffrax (JAX) or torchdiffeq (PyTorch).

Each side follows the full-batch flow from the same weights, with the same tolerances and the same
first step, over the time that keras_cool reaches in some steps. keras_cool does so twice: in one
training step with `flow_time`, and in `fit` with a training step for each step of the solver. Run
it as `KERAS_BACKEND=jax python benchmarks/solver_peers.py`; `--output FILE` also writes the table.
"""

import argparse
import itertools
import pathlib
import time

import keras
import numpy as np
from scipy.integrate import solve_ivp

import keras_cool as kc
from harness.timing import in_turn, machine, milliseconds, ratio, settings

# The samples, and the widths of a net with tanh between the layers.
NETS = {"small": (64, (8, 16, 1)), "large": (256, (128, 256, 256, 1))}
# The names of the peers for the methods.
THEIRS = {
    "jax": {"RK23": "Bosh3", "RK45": "Dopri5", "Tsit5": "Tsit5"},
    "torch": {"RK23": "bosh3", "RK45": "dopri5"},
}
COLUMNS = ["net", "method", "peer", *["gradients", "theirs", "distance", "theirs"]]
COLUMNS += ["ms, one call", "step by step", "theirs", "ratio, one call", "quartiles"]
COLUMNS += ["ratio, step by step", "quartiles"]
TOLERANCES = {"rtol": 1e-3, "atol": 1e-6}
FIRST_STEP = 0.01


class Problem:
    """The data, the first weights, and the flow in NumPy and float64."""

    def __init__(self, samples, widths):
        rng = np.random.default_rng(0)
        self.widths = widths
        self.x = rng.normal(size=(samples, widths[0]))
        self.y = np.sin(self.x[:, :1] * 2) + self.x[:, 1:2] * self.x[:, 2:3]
        self.start = []
        for n, m in itertools.pairwise(widths):
            self.start += [rng.normal(size=(n, m)) / np.sqrt(n), np.zeros(m)]

    def data(self):
        return self.x.astype("float32"), self.y.astype("float32")

    def flow(self, _, flat):
        """The negative gradient of the mean squared error."""
        weights, position = [], 0
        for w in self.start:
            weights.append(flat[position : position + w.size].reshape(w.shape))
            position += w.size
        values = [self.x]
        for i in range(0, len(weights), 2):
            z = values[-1] @ weights[i] + weights[i + 1]
            values.append(np.tanh(z) if i + 2 < len(weights) else z)
        error, gradients = 2 * (values[-1] - self.y) / len(self.y), []
        for i in reversed(range(0, len(weights), 2)):
            layer = i // 2
            gradients = [values[layer].T @ error, error.sum(axis=0), *gradients]
            error = (error @ weights[i].T) * (1 - values[layer] ** 2)
        return -np.concatenate([g.ravel() for g in gradients])

    def reference(self, flow_time):
        start = np.concatenate([w.ravel() for w in self.start])
        solution = solve_ivp(
            self.flow, (0, flow_time), start, method="DOP853", rtol=1e-10, atol=1e-12
        )
        return solution.y[:, -1]


class Ours:
    """`model.fit` with the same batch at each step, or one training step over a flow time."""

    def __init__(self, problem, method, steps=1, flow_time=None):
        self.problem, self.steps, self.flow_time = problem, steps, flow_time
        layers = [keras.layers.Dense(n, activation="tanh") for n in problem.widths[1:-1]]
        net = [keras.Input((problem.widths[0],)), *layers, keras.layers.Dense(1)]
        self.model = kc.inject(keras.Sequential(net))
        several = {} if flow_time is None else {"flow_time": flow_time, "max_steps": 10**6}
        solver = getattr(kc.optimizers, method)(
            FIRST_STEP, **TOLERANCES, full_batch=True, **several
        )
        self.model.compile(solver, loss="mse")
        solver.build(self.model.trainable_variables)
        self.state = [v.numpy() for v in solver.variables]
        self.batch = tuple(keras.ops.convert_to_tensor(a) for a in problem.data())

    def run(self):
        """The seconds of the steps, from the start."""
        self.model.set_weights(self.problem.start)
        for variable, value in zip(self.model.optimizer.variables, self.state):
            variable.assign(value)
        batches = (self.batch for _ in itertools.count())
        begin = time.perf_counter()
        if self.flow_time is None:
            logs = self.model.fit(batches, steps_per_epoch=self.steps, shuffle=False, verbose=0)
            logs = {name: values[-1] for name, values in logs.history.items()}
        else:
            logs = self.model.train_on_batch(*self.batch, return_dict=True)
        self.logs = {name: float(value) for name, value in logs.items()}
        return time.perf_counter() - begin

    def evaluations(self):
        return self.logs["gradient_evaluations"]

    def end(self):
        return np.concatenate([w.ravel() for w in self.model.get_weights()])


class Diffrax:
    """`diffrax.diffeqsolve` of a tuple of arrays, compiled."""

    def __init__(self, problem, method, flow_time):
        import diffrax
        import jax
        import jax.numpy as jnp

        x, y = (jnp.asarray(a) for a in problem.data())
        self.name = f"diffrax {THEIRS['jax'][method]}"
        self.counted = 0

        def loss(weights):
            h = x
            for i in range(0, len(weights), 2):
                h = h @ weights[i] + weights[i + 1]
                h = jnp.tanh(h) if i + 2 < len(weights) else h
            return jnp.mean((h - y) ** 2)

        gradient = jax.grad(loss)

        def flow(t, weights, counting):
            if counting:
                jax.debug.callback(self.count)
            return jax.tree.map(jnp.negative, gradient(weights))

        def solve(start, counting):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(flow),
                getattr(diffrax, THEIRS["jax"][method])(),
                t0=0.0,
                t1=flow_time,
                dt0=FIRST_STEP,
                y0=start,
                args=counting,
                saveat=diffrax.SaveAt(t1=True),
                stepsize_controller=diffrax.PIDController(
                    **TOLERANCES, safety=0.9, factormin=0.2, factormax=10.0
                ),
            )
            return [w[-1] for w in solution.ys]

        self.solve = jax.jit(solve, static_argnums=1)
        self.start = tuple(jnp.asarray(w, "float32") for w in problem.start)
        self.block = jax.block_until_ready

    def count(self):
        self.counted += 1

    def run(self):
        begin = time.perf_counter()
        self.last = self.block(self.solve(self.start, False))
        return time.perf_counter() - begin

    def evaluations(self):
        self.counted = 0
        self.block(self.solve(self.start, True))
        import jax

        jax.effects_barrier()
        return self.counted

    def end(self):
        return np.concatenate([np.asarray(w).ravel() for w in self.last])


class Torchdiffeq:
    """`torchdiffeq.odeint` of one flat vector."""

    def __init__(self, problem, method, flow_time):
        import torch
        from torchdiffeq import odeint

        x, y = (torch.tensor(a) for a in problem.data())
        shapes = [w.shape for w in problem.start]
        sizes = [w.size for w in problem.start]
        self.name, self.counted = f"torchdiffeq {THEIRS['torch'][method]}", 0
        flat = np.concatenate([w.ravel() for w in problem.start])
        start, times = torch.tensor(flat, dtype=torch.float32), torch.tensor([0.0, flow_time])

        def flow(t, point):
            self.counted += 1
            with torch.enable_grad():
                point = point.detach().requires_grad_()
                weights = [w.view(s) for w, s in zip(point.split(sizes), shapes)]
                h = x
                for i in range(0, len(weights), 2):
                    h = torch.addmm(weights[i + 1], h, weights[i])
                    h = torch.tanh(h) if i + 2 < len(weights) else h
                return -torch.autograd.grad(torch.mean((h - y) ** 2), point)[0]

        # The constants of the control, the norm too, are those that it has of its own.
        options = {"first_step": FIRST_STEP, "safety": 0.9, "ifactor": 10.0, "dfactor": 0.2}

        def solve():
            with torch.no_grad():
                return odeint(
                    flow,
                    start,
                    times,
                    method=THEIRS["torch"][method],
                    options=options,
                    **TOLERANCES,
                )[-1]

        self.solve = solve

    def run(self):
        self.counted = 0
        begin = time.perf_counter()
        self.last = self.solve()
        return time.perf_counter() - begin

    def evaluations(self):
        return self.counted

    def end(self):
        return self.last.numpy()


PEERS = {"jax": Diffrax, "torch": Torchdiffeq}


def measure(net, method, steps, rounds):
    """Gives the row of the table for one net and method."""
    problem = Problem(*NETS[net])
    stepwise = Ours(problem, method, steps)
    stepwise.run()
    flow_time = stepwise.logs["flow_time"]
    ours = Ours(problem, method, flow_time=flow_time)
    ours.run()
    peer = PEERS[keras.backend.backend()](problem, method, flow_time)
    peer.run()
    seconds = in_turn({"ours": ours.run, "stepwise": stepwise.run, "peer": peer.run}, rounds)
    reference = problem.reference(flow_time)
    far = [np.linalg.norm(s.end() - reference) / np.linalg.norm(reference) for s in (ours, peer)]
    cells = [net, method, peer.name, f"{ours.evaluations():.0f}", f"{peer.evaluations()}"]
    cells += [f"{distance:.1e}" for distance in far]
    cells += [f"{milliseconds(seconds[side]):.1f}" for side in ("ours", "stepwise", "peer")]
    for side in ("ours", "stepwise"):
        median, low, high = ratio(seconds, side, "peer")
        cells += [f"{median:.2f}", f"{low:.2f} to {high:.2f}"]
    return f"| {' | '.join(cells)} |"


def main():
    backend = keras.backend.backend()
    if backend not in PEERS:
        raise SystemExit(f"There is no such peer on {backend}; KERAS_BACKEND is jax or torch.")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=THEIRS[backend], default=[*THEIRS[backend]])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--steps", type=int, default=40, help="accepted steps")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=pathlib.Path, help="write the table to this file too")
    arguments = parser.parse_args()
    options = f"--methods {' '.join(arguments.methods)} --nets {' '.join(arguments.nets)} "
    options += f"--steps {arguments.steps} --rounds {arguments.rounds}"
    lines = [
        machine(),
        "",
        f"`{settings()}python benchmarks/solver_peers.py {options}`",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
    ]
    for net, method in itertools.product(arguments.nets, arguments.methods):
        lines.append(measure(net, method, arguments.steps, arguments.rounds))
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
