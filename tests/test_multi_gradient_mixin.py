"""`MultiGradientMixin`: steps that a user writes, their `value_and_grad` and `apply_gradients`."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_cool as kc
from support.comparisons import assert_all_equal

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 3)).astype("float32")
Y = RNG.normal(size=(16, 1)).astype("float32")


class GradientPenalty(kc.Model):
    """Least squares with a penalty on the slope of a one-layer tanh net in its inputs."""

    def multi_gradient_step(self, x, y, sample_weight):
        def loss_function():
            def output(inputs):
                return ops.sum(self(inputs[0], training=True))

            _, (slope,) = kc.value_and_grad(output)([x])
            return ops.mean((self(x, training=True) - y) ** 2) + 0.3 * ops.mean(slope**2)

        loss, gradients = self.value_and_grad(loss_function, self.trainable_variables)
        self.apply_gradients(gradients, self.trainable_variables)
        return {"loss": loss}


@pytest.mark.parametrize("arguments", [{}, {"run_eagerly": True}], ids=["compiled", "eager"])
def test_gradient_penalty_against_numpy(arguments):
    inputs = keras.Input((3,))
    model = GradientPenalty(
        inputs, keras.layers.Dense(1, activation="tanh", use_bias=False)(inputs)
    )
    start = np.array([[0.5], [-0.4], [0.3]])
    model.set_weights([start])
    model.compile(keras.optimizers.SGD(0.1), **arguments)
    history = model.fit(X, Y, batch_size=16, epochs=10, verbose=0).history

    def loss(w):
        out = np.tanh(X.astype("float64") @ w)
        slope = (1 - out**2) * w[:, 0]
        return ((out - Y) ** 2).mean() + 0.3 * (slope**2).mean()

    w, losses, h = start, [], 1e-6
    for _ in range(10):
        losses.append(loss(w))
        steps = h * np.eye(3)[:, :, None]
        w = w - 0.1 * np.array([[(loss(w + s) - loss(w - s)) / (2 * h)] for s in steps])
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-5)


class Derivative:
    """Outputs the derivative of a net in its input: Keras' own step differentiates it again."""

    def __init__(self):
        super().__init__()
        self.net = keras.layers.Dense(1, activation="tanh", use_bias=False)
        self.net.build((None, 1))

    def call(self, x):
        _, (slope,) = kc.value_and_grad(lambda inputs: ops.sum(self.net(inputs[0])))([x])
        return slope


@pytest.mark.parametrize("options", [{}, {"microbatch_size": 5}], ids=["plain", "micro-batches"])
@pytest.mark.parametrize("base", [keras.Model, kc.Model])
def test_a_gradient_inside_of_what_is_trained_against_numpy(base, options):
    if base is keras.Model and options:
        return
    model = type("Net", (Derivative, base), {})()
    model.set_weights([np.array([[0.7]])])
    model.compile(keras.optimizers.SGD(0.1), loss="mse", jit_compile=False, **options)
    x, y = X[:, :1].astype("float64"), Y.astype("float64")
    model.fit(x, y, batch_size=16, epochs=5, verbose=0)

    def loss(w):
        return np.mean((w * (1 - np.tanh(w * x) ** 2) - y) ** 2)

    w, h = 0.7, 1e-6
    for _ in range(5):
        w -= 0.1 * (loss(w + h) - loss(w - h)) / (2 * h)
    np.testing.assert_allclose(model.get_weights()[0][0, 0], w, rtol=1e-4)


class GAN(kc.Model):
    """Two players, two optimizers; what the essay's successors ask for in one method."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        self.critic = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)]
        )
        self.critic_optimizer = keras.optimizers.Adam(1e-2)
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.noise = keras.random.SeedGenerator(3)

    def call(self, x):
        return self.critic(x)

    def compile(self, optimizer):
        super().compile(optimizer)
        self.optimizer.build(self.generator.trainable_variables)

    def multi_gradient_step(self, x, y, sample_weight):
        def critic_loss():
            fake = self.generator(keras.random.normal((16, 2), seed=self.noise))
            return (
                ops.mean(self.critic(fake))
                - ops.mean(self.critic(x))
                + 0.1 * ops.mean(self.critic(x) ** 2)
            )

        def generator_loss():
            fake = self.generator(keras.random.normal((16, 2), seed=self.noise))
            return -ops.mean(self.critic(fake))

        variables = self.critic.trainable_variables
        critic, gradients = self.value_and_grad(critic_loss, variables)
        self.apply_gradients(gradients, variables, optimizer=self.critic_optimizer)
        variables = self.generator.trainable_variables
        generator, gradients = self.value_and_grad(generator_loss, variables)
        self.apply_gradients(gradients, variables)
        return {"critic": critic, "generator": generator}


def test_gan_with_two_optimizers():
    keras.utils.set_random_seed(0)
    model = GAN()
    model.compile(keras.optimizers.Adam(3e-2))
    real = RNG.normal(5.0, 0.5, size=(64, 1)).astype("float32")
    model.fit(real, batch_size=16, epochs=60, verbose=0)
    assert int(model.optimizer.iterations) == int(model.critic_optimizer.iterations) == 240
    assert np.abs(ops.convert_to_numpy(model.critic_optimizer.variables[2])).max() > 0
    assert model.noise.state.numpy()[1] == 480
    fakes = ops.convert_to_numpy(model.generator(RNG.normal(size=(500, 2)).astype("float32")))
    assert 3 < fakes.mean() < 7


@pytest.mark.backend("jax")
def test_assigning_to_a_variable_that_is_not_part_of_the_model_is_an_error_on_jax():
    stray = keras.Variable(0.0, name="stray")

    class Stray(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            stray.assign_add(1.0)
            return super().multi_gradient_step(x, y, sample_weight)

    inputs = keras.Input((3,))
    model = Stray(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", loss="mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"not part of the model: \['stray'\]"):
        model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])


def test_value_and_grad_keeps_state_and_moves_no_variable():
    inputs = keras.Input((3,))
    model = kc.Model(inputs, keras.layers.Dense(1)(keras.layers.BatchNormalization()(inputs)))
    model.compile("sgd", loss="mse")
    weights = [v.numpy() for v in model.trainable_variables]
    loss, gradients = model.value_and_grad(
        lambda: ops.mean(ops.square(model(X, training=True))), model.trainable_variables
    )
    for before, v in zip(weights, model.trainable_variables):
        np.testing.assert_array_equal(before, v.numpy())
    assert np.abs(model.layers[1].moving_mean.numpy()).max() > 0
    assert [tuple(g.shape) for g in gradients] == [
        tuple(v.shape) for v in model.trainable_variables
    ]
    assert float(loss) > 0


def test_value_and_grad_gives_none_and_aux():
    inputs = keras.Input((3,))
    model = kc.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    model.compile("sgd", loss="mse")
    model.fit(X, Y, verbose=0)
    unused = keras.Variable([1.0])
    (loss, aux), gradients = model.value_and_grad(
        lambda: (ops.sum(model.weights[0] ** 2), {"half": ops.sum(model.weights[0] ** 2) / 2}),
        [model.weights[0], unused],
        has_aux=True,
    )
    assert gradients[1] is None
    np.testing.assert_allclose(ops.convert_to_numpy(gradients[0]), 2 * model.get_weights()[0])
    np.testing.assert_allclose(float(loss), 2 * float(aux["half"]))


@pytest.mark.parametrize("order", ["plain", "penalty first", "prediction first"])
def test_a_loss_that_a_layer_adds_counts_once_beside_a_gradient_in_the_inputs(order):
    """In whatever order the model is called; the loss is NumPy's."""

    class Penalised(kc.Model):
        def multi_gradient_step(self, x, y, sample_weight):
            def penalty():
                _, (slope,) = kc.value_and_grad(lambda t: ops.sum(self(t[0])))([x])
                return ops.mean(ops.square(slope))

            def loss_function():
                extra = penalty() if order == "penalty first" else 0.0
                prediction = self(x, training=True)
                extra = penalty() if order == "prediction first" else extra
                loss = self.compute_loss(x, y, prediction)
                return loss + (penalty() if order == "plain" else extra)

            loss, _ = self.value_and_grad(loss_function, self.trainable_variables)
            return {"value": loss}

    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, activity_regularizer=keras.regularizers.L2(1.0), use_bias=False)(
        inputs
    )
    model = Penalised(inputs, keras.layers.Dense(1, use_bias=False)(hidden))
    model.compile("sgd", loss="mse")
    x, y = X[:16].astype("float64"), Y[:16]
    first, last = model.get_weights()
    logs = model.fit(X[:16], Y[:16], batch_size=16, verbose=0).history
    expected = np.mean((x @ first @ last - y) ** 2) + np.sum((x @ first) ** 2) / 16
    expected += np.mean(np.tile((first @ last).T, (16, 1)) ** 2)
    np.testing.assert_allclose(logs["value"][0], expected, rtol=1e-5)


class Careless(kc.Model):
    """A step with a slip, chosen from outside."""

    slip = None

    def multi_gradient_step(self, x, y, sample_weight):
        variables = self.trainable_variables

        def loss_function():
            return self.compute_loss(x, y, self(x, training=True), sample_weight)

        loss, gradients = self.value_and_grad(loss_function, variables)
        slips = {
            "a gradient short": lambda: self.apply_gradients(gradients[:1], variables),
            "a variable short": lambda: self.apply_gradients(gradients, variables[:1]),
            "one variable": lambda: self.apply_gradients(gradients[:1], variables[0]),
            "a name": lambda: self.apply_gradients(gradients, variables, optimizer="adam"),
            "tensors": lambda: self.value_and_grad(loss_function, [v.value for v in variables]),
            "no pair": lambda: self.value_and_grad(loss_function, variables, has_aux=True),
            "a pair": lambda: self.value_and_grad(lambda: (loss_function(), 1), variables),
            "a vector": lambda: None,
        }
        slips[self.slip]()
        return {"loss": y[:, 0] if self.slip == "a vector" else loss}


@pytest.mark.parametrize(
    ("slip", "kind", "message"),
    [
        ("a gradient short", ValueError, "given 1 gradients for 2 variables"),
        ("a variable short", ValueError, "given 2 gradients for 1 variables"),
        ("one variable", TypeError, "`apply_gradients` are a list of keras.Variables"),
        ("a name", TypeError, "is a Keras optimizer, an attribute of the model. .*'adam'"),
        ("tensors", TypeError, "`value_and_grad` are a list of keras.Variables"),
        ("no pair", ValueError, "returns a pair, .loss, aux."),
        ("a pair", ValueError, "returned 2 values, and has to return a scalar"),
        ("a vector", ValueError, r"has the shape .*and has to be a scalar"),
    ],
)
def test_slips_in_a_step_are_named(slip, kind, message):
    inputs = keras.Input((3,))
    model = Careless(inputs, keras.layers.Dense(1)(inputs))
    model.slip = slip
    model.compile("sgd", loss="mse")
    before = model.get_weights()
    with pytest.raises(kind, match=message):
        model.fit(X, Y, batch_size=16, verbose=0)
    if slip != "a vector":  # found after the update
        assert_all_equal(model.get_weights(), before)


def test_a_method_for_a_model_with_a_step_of_its_own_says_where_the_loss_goes():
    inputs = keras.Input((3,))
    model = GradientPenalty(inputs, keras.layers.Dense(1)(inputs))
    model.compile(kc.optimizers.RK45(0.1))
    with pytest.raises(ValueError, match="move the loss into `compute_loss`"):
        model.fit(X, Y, verbose=0)
