"""What a step costs: an optimizer of `s` gradient evaluations against `s` plain steps of Keras.

Run it as `KERAS_BACKEND=jax python benchmarks/step_cost.py`; `--methods RK4 --nets dense` takes
some rows, `--output FILE` also writes the table.
"""

import argparse
import pathlib
import statistics

import keras
import numpy as np

import keras_cool as kc
from harness.timing import in_turn, machine, milliseconds, ratio, seconds_a_step, settings


def dense_net(cls):
    """5 million parameters in dense layers: a step is bound by memory."""
    inputs = keras.Input((784,))
    h = inputs
    for _ in range(3):
        h = keras.layers.Dense(1344, activation="relu")(h)
    return cls(inputs, keras.layers.Dense(10)(h))


def convolutional_net(cls):
    """Convolutions with batch normalisation and dropout: a step is bound by arithmetic."""
    inputs = keras.Input((28, 28, 1))
    h = inputs
    for filters in (32, 64):
        h = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(h)
        h = keras.layers.MaxPooling2D()(keras.layers.BatchNormalization()(h))
    h = keras.layers.Dropout(0.3, seed=1)(keras.layers.Flatten()(h))
    return cls(inputs, keras.layers.Dense(10)(h))


NETS = {"dense": (dense_net, (784,)), "convolutional": (convolutional_net, (28, 28, 1))}


class OwnStep(kc.Model):
    """The plain step computed by keras_cool, where `kc.Model` leaves it to Keras."""

    def multi_gradient_step(self, x, y, sample_weight):
        return super().multi_gradient_step(x, y, sample_weight)


RATE, TOO_LONG = 1e-3, 1.0


class TooLong(kc.optimizers.RK45):
    """RK45 whose every step is first tried with a size that is too large."""

    def estimate_gradient(self, evaluate, point):
        estimate = super().estimate_gradient(evaluate, point)
        self.learning_rate = TOO_LONG
        return estimate


SHORT = {"max_step": RATE, "atol": 1.0}  # no try of such a step is rejected
FIXED = {"adaptive": False}
methods = kc.optimizers
PLAIN = {"sgd": lambda: keras.optimizers.SGD(RATE), "adam": lambda: keras.optimizers.Adam(RATE)}

# What is measured: the class of the model, the optimizer, and the plain optimizer it is against.
SIDES = {
    "sgd, kc.Model": (kc.Model, PLAIN["sgd"], "sgd"),
    "adam, kc.Model": (kc.Model, PLAIN["adam"], "adam"),
    "sgd, a step of one's own": (OwnStep, PLAIN["sgd"], "sgd"),
    "Heun": (kc.Model, lambda: methods.Heun(RATE), "sgd"),
    "Midpoint": (kc.Model, lambda: methods.Midpoint(RATE), "sgd"),
    "Ralston": (kc.Model, lambda: methods.Ralston(RATE), "sgd"),
    "RK4": (kc.Model, lambda: methods.RK4(RATE), "sgd"),
    "RK23, fixed": (kc.Model, lambda: methods.RK23(RATE, **FIXED), "sgd"),
    "RK45, fixed": (kc.Model, lambda: methods.RK45(RATE, **FIXED), "sgd"),
    "Tsit5, fixed": (kc.Model, lambda: methods.Tsit5(RATE, **FIXED), "sgd"),
    "RK23": (kc.Model, lambda: methods.RK23(RATE, **SHORT), "sgd"),
    "RK45": (kc.Model, lambda: methods.RK45(RATE, **SHORT), "sgd"),
    "Tsit5": (kc.Model, lambda: methods.Tsit5(RATE, **SHORT), "sgd"),
    "RK45, rejected tries": (kc.Model, lambda: TooLong(TOO_LONG, atol=1e-3), "sgd"),
    "Chebyshev, order 1": (kc.Model, lambda: methods.RungeKuttaChebyshev(RATE, 6), "sgd"),
    "Chebyshev, order 2": (kc.Model, lambda: methods.RungeKuttaChebyshev(RATE, 6, order=2), "sgd"),
    "Heun, adam": (kc.Model, lambda: methods.Heun("adam"), "adam"),
    "RK4, adam": (kc.Model, lambda: methods.RK4("adam"), "adam"),
    "RK45, adam": (kc.Model, lambda: methods.RK45("adam", **SHORT), "adam"),
    "Chebyshev, adam": (kc.Model, lambda: methods.RungeKuttaChebyshev("adam", 6), "adam"),
    "SAM": (kc.Model, lambda: methods.SAM(RATE), "sgd"),
    "SAM, adam": (kc.Model, lambda: methods.SAM("adam"), "adam"),
    "SAM, interval=5": (kc.Model, lambda: methods.SAM(RATE, interval=5), "sgd"),
    "SAM, interval=5, adam": (kc.Model, lambda: methods.SAM("adam", interval=5), "adam"),
    "Extragradient": (kc.Model, lambda: methods.Extragradient(RATE), "sgd"),
    "Extragradient, adam": (kc.Model, lambda: methods.Extragradient("adam"), "adam"),
    "OptimisticGradient": (kc.Model, lambda: methods.OptimisticGradient(RATE), "sgd"),
    "OptimisticGradient, adam": (kc.Model, lambda: methods.OptimisticGradient("adam"), "adam"),
    "Lookahead": (kc.Model, lambda: methods.Lookahead(RATE), "sgd"),
    "Lookahead, adam": (kc.Model, lambda: methods.Lookahead("adam"), "adam"),
}
TO_REACH = {
    "sgd, kc.Model": "1.02",
    "adam, kc.Model": "1.02",
    "sgd, a step of one's own": "",
    "SAM": "1.02",
    "SAM, interval=5": "1.04",  # 1.25 of one step
    "OptimisticGradient": "1.05",
    "Lookahead": "1.05",
}


def chosen_sides(names):
    """The rows asked for: all, or those named or whose method is."""
    if not names:
        return dict(SIDES)
    return {k: v for k, v in SIDES.items() if k in names or k.split(",")[0] in names}


def to_reach(name):
    return TO_REACH.get(name, TO_REACH.get(name.removesuffix(", adam"), "1.00"))


def taken(model):
    """The gradient evaluations of a model so far; a plain optimizer takes one a step."""
    counted = getattr(model.optimizer, "step_logs", None)
    name = "gradient_evaluations"
    return int(counted()[name]) if counted else int(model.optimizer.iterations)


class Side:
    """A model in training, `evaluations` gradients or somewhat more at a time."""

    def __init__(self, net, cls, optimizer, batch_size, evaluations):
        keras.utils.set_random_seed(0)
        make, shape = NETS[net]
        self.model = make(cls)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(optimizer(), loss=loss)
        self.shape, self.batch_size, self.evaluations = shape, batch_size, evaluations
        self.evaluations_a_step = []
        self.train(1)

    def train(self, steps):
        """Trains some steps in one epoch; the seconds of a step and its evaluations."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(self.batch_size * steps, *self.shape)).astype("float32")
        y = rng.integers(0, 10, size=len(x))
        before = taken(self.model)
        seconds = seconds_a_step(self.model, x, y, self.batch_size)
        self.evaluations_a_step.append((taken(self.model) - before) / steps)
        return seconds

    def seconds_an_evaluation(self):
        """The seconds of an epoch over its gradient evaluations.

        An epoch has about as many of them on every side: what each epoch costs is shared alike.
        """
        steps = max(1, round(self.evaluations / self.evaluations_a_step[-1]))
        return self.train(steps) / self.evaluations_a_step[-1]


def measure(net, chosen, batch_size, evaluations, rounds):
    """Gives the rows of the table for one net."""
    models = {name: (keras.Model, PLAIN[name], name) for name in PLAIN}
    wanted = {against for _, _, against in chosen.values()}
    models = {name: side for name, side in models.items() if name in wanted} | chosen
    sides = {
        name: Side(net, cls, optimizer, batch_size, evaluations)
        for name, (cls, optimizer, _) in models.items()
    }
    seconds = in_turn({k: s.seconds_an_evaluation for k, s in sides.items()}, rounds)
    for name, (_, _, against) in chosen.items():
        median, low, high = ratio(seconds, name, against)
        count = statistics.median(sides[name].evaluations_a_step)
        yield (
            f"| {net} | {name} | {count:g} {against} | {count * milliseconds(seconds[name]):.2f} | "
            f"{count * milliseconds(seconds[against]):.2f} | {median:.2f} | "
            f"{low:.2f} to {high:.2f} | {to_reach(name)} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", help=f"of {', '.join(SIDES)}")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--evaluations", type=int, default=42, help="a round and side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=pathlib.Path, help="write the table to this file too")
    arguments = parser.parse_args()
    chosen = chosen_sides(arguments.methods)
    options = f"--nets {' '.join(arguments.nets)} --batch-size {arguments.batch_size} "
    options += f"--evaluations {arguments.evaluations} --rounds {arguments.rounds}"
    if arguments.methods:
        options += " --methods " + " ".join(f'"{m}"' for m in arguments.methods)
    lines = [
        f"{machine()}",
        "",
        f"`{settings()}python benchmarks/step_cost.py {options}`",
        "",
        "| net | a step | against | ms | ms, plain steps | ratio | quartiles | to reach |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for net in arguments.nets:
        lines += measure(net, chosen, arguments.batch_size, arguments.evaluations, arguments.rounds)
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
