"""`RK45`: the steps of SciPy's on Keras' own layers, whole and in micro-batches."""

import keras
import numpy as np
import pytest
from scipy.integrate import RK45

import keras_cool as kc
from support.gradient_flows import PROBLEMS


@pytest.mark.parametrize("adjust", [{}, {"microbatch_size": 5}], ids=["whole", "microbatches"])
def test_rk45_on_keras_own_layers_takes_the_steps_of_scipy(adjust, float64):
    """To ten digits: `Dense`, `tanh`, matrix products and the mean are in float64."""
    problem = PROBLEMS["net"]
    n = len(problem.x)
    solver = RK45(lambda t, p: -2 / n * problem.gradient(p), 0.0, problem.start, t_bound=1e6)
    expected = []
    for _ in range(10):
        solver.step()
        expected.append(solver.step_size)

    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(5, activation="tanh", use_bias=False)(inputs)
    model = kc.Model(inputs, keras.layers.Dense(1, use_bias=False)(hidden))
    model.set_weights([problem.start[:15].reshape(3, 5), problem.start[15:].reshape(5, 1)])
    model.compile(kc.optimizers.RK45(), loss="mse", **adjust)
    sizes = [
        model.fit(problem.x, problem.y, batch_size=n, shuffle=False, verbose=0).history["step_size"]
        for _ in range(10)
    ]
    np.testing.assert_allclose(np.ravel(sizes), expected, rtol=1e-10)
    weights = np.concatenate([w.ravel() for w in model.get_weights()])
    np.testing.assert_allclose(weights, solver.y, rtol=1e-10)
