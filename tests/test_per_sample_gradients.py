"""`per_sample_gradients` against one gradient after another, random layers, and its errors."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_cool as kc
from support.transforms import LAYERS, Case

RNG = np.random.default_rng(0)


def numbers(tensor):
    return ops.convert_to_numpy(tensor).tolist()


@pytest.mark.filterwarnings("ignore:A layer has a loop")
@pytest.mark.parametrize("kind", LAYERS)
def test_against_a_loop(kind):
    case = Case(kind)
    values, gradients = kc.per_sample_gradients(lambda t, x: case.loss(t, x[None]))(
        case.tensors, case.x
    )
    for i in range(5):
        value, expected = kc.value_and_grad(lambda t, i=i: case.loss(t, case.x[i : i + 1]))(
            case.tensors
        )
        np.testing.assert_allclose(float(values[i]), float(value), rtol=1e-5)
        for g, e, t in zip(gradients, expected, case.tensors, strict=True):
            assert g.shape == (5, *t.shape)
            e = ops.convert_to_numpy(e)
            np.testing.assert_allclose(
                ops.convert_to_numpy(g[i]), e, atol=1e-5 * np.abs(e).max() + 1e-6
            )


@pytest.mark.backend("tensorflow")
def test_a_layer_with_a_loop_is_warned_of():
    case = Case("lstm")
    with pytest.warns(UserWarning, match="(?i)one sample is computed after another.*unroll=True"):
        kc.per_sample_gradients(lambda t, x: case.loss(t, x[None]))(case.tensors, case.x)


def test_a_nest_of_a_batch_and_further_outputs():
    def function(tensors, sample):
        difference = ops.sum(tensors[0] * sample["x"]) - sample["y"]
        return difference**2, {"difference": difference, "name": "kept"}

    batch = {"x": np.eye(2, dtype="float32"), "y": np.array([0.0, 3.0], "float32")}
    (values, aux), (gradients, missing) = kc.per_sample_gradients(function, has_aux=True)(
        [ops.ones((2,)), ops.ones(())], batch
    )
    assert numbers(values) == [1.0, 4.0] and numbers(aux["difference"]) == [1.0, -2.0]
    assert aux["name"] == "kept"
    assert numbers(gradients) == [[2.0, 0.0], [0.0, -4.0]]
    assert missing is None


def test_random_layers_draw_the_same_for_every_sample_and_go_on():
    dropout = layers.Dropout(0.5, seed=1)
    x = ops.ones((4, 64))
    per_sample = kc.per_sample_gradients(
        lambda t, x: ops.sum(dropout(t[0] * x[None], training=True))
    )
    first = ops.convert_to_numpy(per_sample([ops.ones((64,))], x)[1][0])
    assert 0 < np.count_nonzero(first) < first.size
    np.testing.assert_array_equal(first, np.repeat(first[:1], 4, axis=0))
    second = ops.convert_to_numpy(per_sample([ops.ones((64,))], x)[1][0])
    assert (first != second).any()


def test_second_derivatives():
    _, (gradients,) = kc.per_sample_gradients(
        lambda t, x: kc.hvp(lambda u: ops.sum(u[0] ** 3) * x)(t, [ops.ones((1,))])[2][0][0]
    )([ops.ones((1,))], ops.convert_to_tensor([1.0, 2.0]))
    assert numbers(gradients) == [[6.0], [12.0]]


def test_clipped_gradients_in_a_step_of_ones_own():
    """DP-SGD without its noise, against a loop in NumPy."""

    class Private(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            variables = self.trainable_variables
            values, gradients = self.per_sample_gradients(
                lambda x, y: self.compute_loss(x, y, self(x, training=True)), variables, (x, y)
            )
            norms = ops.sqrt(sum(ops.sum(g**2, axis=list(range(1, g.ndim))) for g in gradients))
            factors = ops.minimum(1.0, 0.5 / norms)
            clipped = [
                ops.mean(g * ops.reshape(factors, (-1, *[1] * (g.ndim - 1))), axis=0)
                for g in gradients
            ]
            self.apply_gradients(clipped, variables)
            return {"loss": ops.mean(values)}

    x = RNG.normal(size=(12, 3)).astype("float32")
    y = RNG.normal(size=(12, 1)).astype("float32")
    model = Private(inputs := keras.Input((3,)), layers.Dense(1)(inputs))
    w, b = (np.float64(v) for v in model.get_weights())
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    logs = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    losses = []
    for start in (0, 4, 8, 0, 4, 8):
        steps = []
        for i in range(start, start + 4):
            residual = x[i] @ w[:, 0] + b[0] - y[i, 0]
            gradient = 2 * residual * np.append(x[i], 1.0)
            steps.append(gradient * min(1, 0.5 / np.linalg.norm(gradient)))
            losses.append(residual**2)
        w, b = w - 0.1 * np.mean(steps, axis=0)[:3, None], b - 0.1 * np.mean(steps, axis=0)[3:]
    np.testing.assert_allclose(logs["loss"], np.reshape(losses, (2, 12)).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-5)


def test_a_layer_that_learns_from_its_batch():
    normalise = layers.BatchNormalization()
    normalise.build((None, 3))
    with pytest.raises(ValueError, match=r"changes.*moving_mean.*training=False"):
        kc.per_sample_gradients(lambda t, x: ops.sum(normalise(t[0] * x[None], training=True)))(
            [ops.ones((3,))], ops.ones((4, 3))
        )


def test_errors():
    def loss(tensors, x):
        return ops.sum(tensors[0] * x)

    per_sample, w = kc.per_sample_gradients(loss), [ops.ones((2,))]
    with pytest.raises(ValueError, match="the same number of them each"):
        per_sample(w, (ops.ones((4, 2)), ops.ones((3, 2))))
    with pytest.raises(ValueError, match="samples first"):
        per_sample(w, ops.ones(()))
    with pytest.raises(TypeError, match=r"kc\.per_sample_gradients\(function\)\(\[tensor\]\)"):
        per_sample(w[0], ops.ones((4, 2)))
    with pytest.raises(ValueError, match="must return a scalar"):
        kc.per_sample_gradients(lambda t, x: t[0] * x)(w, ops.ones((4, 2)))
    model = kc.Model(inputs := keras.Input((2,)), layers.Dense(1)(inputs))
    model.compile("sgd", loss="mse", microbatch_size=2)
    with pytest.raises(ValueError, match="microbatch_size=2.*all samples at once"):
        model.per_sample_gradients(lambda x: 0.0, model.trainable_variables, (ops.ones((4, 2)),))
