"""`RK4`: its polynomial on a linear flow, and its stages under dropout and over Adam."""

import keras
import numpy as np

import keras_cool as kc
from support.gradient_flows import POISSON, PROBLEMS, compiled, train, weights_of


def test_on_a_linear_flow_a_step_is_the_exponential_up_to_the_fourth_power(float64):
    problem, h = PROBLEMS["quadratic"], 0.2
    model = compiled(problem, kc.optimizers.RK4(h))
    logs = train(model, problem, 7)
    z = -h * np.array([0.1, 1.0, 10.0])
    factor = 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    np.testing.assert_allclose(weights_of(model), factor**7 * problem.start, rtol=1e-12)
    assert logs["gradient_evaluations"][-1] == 4 * 7


def test_dropout_sees_one_mask_in_all_stages():
    """With the masks of all stages alike, RK4 on a linear loss takes a plain step."""
    x, y = np.ones((8, 30), "float32"), np.zeros((8, 1), "float32")
    ends = []
    for optimizer in (kc.optimizers.RK4(0.1), keras.optimizers.SGD(0.1)):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((30,))
        hidden = keras.layers.Dropout(0.5, seed=3)(inputs)
        model = kc.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(hidden))
        model.compile(optimizer, loss=lambda y, p: p)
        model.fit(x, y, batch_size=8, epochs=3, verbose=0)
        ends.append(model.get_weights()[0])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)


def test_rk4_over_adam_takes_its_stages_along_the_preconditioned_flow():
    """The first step of RK4 over Adam in NumPy, where Adam's own step is the sign, nearly."""
    h, epsilon = 0.1, 1e-7
    model = compiled(POISSON, kc.optimizers.RK4(keras.optimizers.Adam(h, beta_2=0.9)))
    train(model, POISSON, 2)

    p, m, v = POISSON.start, 0.0, 0.0
    for t in (1, 2):
        first = POISSON.gradient(p)
        moment = 0.9 * v + 0.1 * first**2
        diagonal = np.sqrt(1 - 0.9**t) / (np.sqrt(moment) + epsilon)
        second = POISSON.gradient(p - h / 2 * diagonal * first)
        third = POISSON.gradient(p - h / 2 * diagonal * second)
        fourth = POISSON.gradient(p - h * diagonal * third)
        mean = (first + 2 * second + 2 * third + fourth) / 6
        m, v = 0.9 * m + 0.1 * mean, 0.9 * v + 0.1 * mean**2
        rate = h * np.sqrt(1 - 0.9**t) / (1 - 0.9**t)
        p = p - rate * m / (np.sqrt(v) + epsilon)
    np.testing.assert_allclose(weights_of(model), p, rtol=1e-5)
