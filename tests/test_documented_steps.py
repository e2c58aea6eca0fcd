"""The optimizers written out in the README and the docs take the steps that NumPy takes."""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cool as kc

ROOT = Path(__file__).parents[1]
RATE, STEPS = 0.1, 6
x = np.random.default_rng(0).normal(size=(8, 3))
y = np.random.default_rng(1).normal(size=(8, 1))


def classes_of_a_page(page, *names):
    """Classes as a page writes them out, each with those before it and the usual imports."""
    text = (ROOT / page).read_text(encoding="utf-8")
    code = ast.parse("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)))
    classes = [c for c in code.body if isinstance(c, ast.ClassDef) and c.name in names]
    namespace = {"keras": keras, "kc": kc, "ops": keras.ops}
    exec(compile(ast.Module(classes, type_ignores=[]), page, "exec"), namespace)
    return [namespace[name] for name in names]


def slope(w, inputs, targets):
    return 2 * inputs.T @ (inputs @ w - targets) / len(inputs)


def weights_after(optimizer, batch_size):
    model = kc.Model(inputs := keras.Input((3,)), keras.layers.Dense(1, use_bias=False)(inputs))
    model.layers[1].kernel.assign(np.ones((3, 1)))
    model.compile(optimizer, loss="mse")
    model.fit(x, y, batch_size=batch_size, epochs=STEPS, shuffle=False, verbose=0)
    return model.get_weights()[0]


@pytest.mark.parametrize("page", ["README.md", "docs/writing-a-step.md"])
def test_the_penalty_on_the_norm_is_that_of_numpy(page):
    w = np.ones((3, 1))
    for _ in range(STEPS):
        g = slope(w, x, y)
        w = w - RATE * (0.3 * g + 0.7 * slope(w + 0.5 * g / np.linalg.norm(g), x, y))
    (penalty,) = classes_of_a_page(page, "GradientNormPenalty")
    optimizer = penalty(RATE, alpha=0.7, rho=0.5)
    np.testing.assert_allclose(weights_after(optimizer, 8), w, rtol=1e-5)


def gradient_descent(batches_a_step):
    """`STEPS` epochs over batches of 2, the mean of so many of them a step."""
    w = np.ones((3, 1))
    for _ in range(STEPS):
        for i in range(0, 8, 2 * batches_a_step):
            rows = slice(i, i + 2 * batches_a_step)
            w = w - RATE * slope(w, x[rows], y[rows])
    return w


@pytest.mark.parametrize("page", ["docs/the-essay.md", "docs/the-essay.zh.md"])
def test_the_optimizers_of_the_essay_are_those_of_numpy(page):
    plain, soft = classes_of_a_page(page, "PlainSGD", "SoftSGD")
    np.testing.assert_allclose(weights_after(plain(RATE), 2), gradient_descent(1), rtol=1e-5)
    np.testing.assert_allclose(
        weights_after(soft(RATE, steps=4), 2), gradient_descent(4), rtol=1e-5
    )
