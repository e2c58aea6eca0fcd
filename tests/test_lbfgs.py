"""`LBFGS`: its memory against the two-loop recursion, its evaluations against three libraries."""

import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from harness.descents import deep_tanh
from support.minima import AtTarget, Quadratic, minimise, model_of
from support.quasi_newton import (
    PROBLEMS,
    RNG,
    evaluations_of_ours,
    evaluations_of_scipy,
    inverse_hessian_of,
    random_pairs,
    tensors,
)

LBFGS = kc.optimizers.LBFGS


def two_loop_recursion(steps, changes, gradient):
    """Nocedal and Wright, algorithm 7.4."""
    q, alphas = gradient.copy(), []
    for s, y in zip(reversed(steps), reversed(changes), strict=True):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    r = q * (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y, alpha in zip(steps, changes, reversed(alphas), strict=True):
        r += s * (alpha - y @ r / (s @ y))
    return r


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_the_memory_is_the_two_loop_recursion(count, float64):
    steps, changes = random_pairs(count, 7)
    hessian, state = inverse_hessian_of(LBFGS(memory=4), steps, changes)
    gradient = RNG.normal(size=7)
    expected = two_loop_recursion(steps[-4:], changes[-4:], gradient)
    product = ops.convert_to_numpy(hessian.times(state, *tensors(gradient)))
    np.testing.assert_allclose(product, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["rosenbrock-2", "rosenbrock-100", "digits"])
def test_lbfgs_needs_no_more_evaluations_than_scipy(name, float64):
    problem = PROBLEMS[name]
    theirs = evaluations_of_scipy("L-BFGS-B", problem, maxcor=10, ftol=0, maxfun=5000)
    assert evaluations_of_ours(LBFGS, problem) <= 1.1 * theirs


def test_nor_on_badly_conditioned_quadratics(float64):
    # The counts of single runs vary by a tenth with the rounding of a machine: a sum of ten.
    problem, theirs, ours = Quadratic(20, 1e6, target=1.0), 0, 0
    model = model_of(problem.loss, problem.start, LBFGS(max_iterations=5))
    for _ in range(10):
        start = RNG.uniform(0.5, 1.5, size=20)
        theirs += evaluations_of_scipy("L-BFGS-B", problem, start, maxcor=10, ftol=0, maxfun=5000)
        for variable in model.optimizer.variables:
            if "learning_rate" not in variable.path:
                variable.assign(ops.zeros_like(variable.value))
        model.set_weights([start])
        logs = minimise(model, epochs=500, callbacks=[AtTarget(problem.target)])
        # The first evaluation of each step is the last one of the step before.
        ours += logs["gradient_evaluations"][-2] - len(logs["loss"]) + 2
    assert ours <= 1.1 * theirs


@pytest.mark.backend("torch")
def test_it_needs_no_more_evaluations_than_that_of_pytorch(float64):
    import torch

    problem, count = PROBLEMS["rosenbrock-100"], 0
    w = torch.tensor(problem.start, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w],
        max_iter=1,
        max_eval=30,
        tolerance_grad=0,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure():
        nonlocal count
        count += 1
        optimizer.zero_grad()
        loss = problem.loss(w)
        loss.backward()
        return loss

    steps = 0
    while optimizer.step(closure) > problem.target:
        steps += 1
    assert evaluations_of_ours(LBFGS, problem) <= 1.1 * (count - steps)


@pytest.mark.backend("jax")
def test_it_needs_no_more_evaluations_than_that_of_optax(float64):
    import jax
    import jax.numpy as jnp
    import optax

    problem, optimizer = PROBLEMS["rosenbrock-100"], optax.lbfgs(memory_size=10)
    w, count = jnp.asarray(problem.start), 0
    value_and_grad = optax.value_and_grad_from_state(problem.loss)

    @jax.jit
    def step(w, state):
        value, gradient = value_and_grad(w, state=state)
        updates, state = optimizer.update(
            gradient, state, w, value=value, grad=gradient, value_fn=problem.loss
        )
        return optax.apply_updates(w, updates), state

    state = optimizer.init(w)
    while problem.loss(w) > problem.target:
        w, state = step(w, state)
        count += int(state[-1].info.num_linesearch_steps)
    assert evaluations_of_ours(LBFGS, problem) <= 1.1 * count


def test_it_goes_on_where_the_loss_is_rounder_than_its_dtype():
    # The residuals of this net are small, and have the rounding of predictions that are not: about
    # 200 times that of the loss in float32.
    task = deep_tanh()
    model = task.model()
    model.compile(LBFGS(max_iterations=10), loss="mse")
    for variable, value in zip(model.trainable_variables, task.start(model, 1), strict=True):
        variable.assign(value)
    # Without shuffling, which changes the rounding from step to step.
    options = {"batch_size": len(task.x), "epochs": 80, "shuffle": False, "verbose": 0}
    logs = model.fit(task.x, task.y, **options).history
    evaluations, iterations = (
        logs[name][-1] for name in ("gradient_evaluations", "quasi_newton_iterations")
    )
    assert iterations > 400
    assert evaluations < 2 * iterations
