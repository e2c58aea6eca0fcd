"""`MultiGradientOptimizer`: methods that a user writes, on least squares, against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 3)).astype("float32")
Y = RNG.normal(size=(16, 1)).astype("float32")


class SharpnessAware(kc.optimizers.MultiGradientOptimizer):
    """SAM (Foret 2021): the gradient at the worst point of a ball."""

    def estimate_gradient(self, evaluate, point):
        _, gradients = evaluate(point)
        norm = ops.sqrt(sum(ops.sum(g**2) for g in gradients))
        _, gradients = evaluate([p + 0.05 * g / norm for p, g in zip(point, gradients)])
        return gradients


class AveragedGradient(kc.optimizers.MultiGradientOptimizer):
    """A method with a state of its own: the running mean of all gradients."""

    def build(self, variables):
        super().build(variables)
        self.sums = self.add_optimizer_variables(variables, "sum")
        self.taken = self.add_variable((), dtype="float32", name="taken")

    def estimate_gradient(self, evaluate, point):
        _, gradients = evaluate(point)
        self.taken.assign_add(1.0)
        for total, g in zip(self.sums, gradients):
            total.assign(total + g)
        return [total / self.taken for total in self.sums]


class Backtracking(kc.optimizers.MultiGradientOptimizer):
    """A line search: losses at trial points decide; all candidates are evaluated."""

    def estimate_gradient(self, evaluate, point):
        _, gradients = evaluate(point)
        factors = [1.0, 0.5, 0.25]
        losses = ops.stack(
            [evaluate(self.trial_point(point, [f * g for g in gradients]))[0] for f in factors]
        )
        best = ops.take(ops.convert_to_tensor(factors), ops.argmin(losses))
        return [best * g for g in gradients]


def least_squares(optimizer):
    inputs = keras.Input((3,))
    model = kc.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    model.set_weights([np.array([[0.5], [-0.4], [0.3]])])
    model.compile(optimizer, loss="mse")
    model.fit(X, Y, batch_size=16, epochs=5, verbose=0)
    return model


def numpy_gradient(w):
    return 2 / len(X) * X.T.astype("float64") @ (X @ w - Y)


def test_sam_in_four_lines_against_numpy():
    w = np.array([[0.5], [-0.4], [0.3]])
    for _ in range(5):
        g = numpy_gradient(w)
        w = w - 0.1 * numpy_gradient(w + 0.05 * g / np.linalg.norm(g))
    actual = least_squares(SharpnessAware(0.1)).get_weights()[0]
    np.testing.assert_allclose(actual, w, rtol=1e-5)


def test_a_method_with_state_against_numpy():
    w, total = np.array([[0.5], [-0.4], [0.3]]), 0.0
    for step in range(5):
        total = total + numpy_gradient(w)
        w = w - 0.1 * total / (step + 1)
    model = least_squares(AveragedGradient(0.1))
    np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-5)
    np.testing.assert_allclose(model.optimizer.sums[0].numpy(), total, rtol=1e-5)


def test_a_line_search_against_numpy():
    w = np.array([[0.5], [-0.4], [0.3]])
    for _ in range(5):
        g = numpy_gradient(w)
        trials = [w - f * 1.5 * g for f in (1.0, 0.5, 0.25)]
        w = min(trials, key=lambda w: ((X @ w - Y) ** 2).mean())
    model = least_squares(Backtracking(1.5))
    np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-5)
    assert int(model.optimizer.step_logs()["gradient_evaluations"]) == 20


def test_a_subclass_without_estimate_gradient_says_so():
    class Unfinished(kc.optimizers.MultiGradientOptimizer):
        pass

    with pytest.raises(NotImplementedError, match="Unfinished must implement"):
        least_squares(Unfinished(0.1))


@pytest.mark.parametrize("returned", ["the pair", "none", "too few"])
def test_slips_in_an_estimate_are_named(returned):
    class Estimate(kc.optimizers.MultiGradientOptimizer):
        def estimate_gradient(self, evaluate, point):
            pair = evaluate(point)
            return {"the pair": pair, "none": None, "too few": pair[1][:1]}[returned]

    inputs = keras.Input((3,))
    model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(Estimate(0.1), loss="mse")
    with pytest.raises(ValueError, match="has to return a list of 2 gradients"):
        model.fit(X, Y, verbose=0)
