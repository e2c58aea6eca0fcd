"""On JAX convolutions in a loop are computed in the form that XLA is fast with."""

import keras
import numpy as np
import pytest

from support.comparisons import assert_all_close

pytestmark = pytest.mark.backend("jax")

CASES = {
    "strides": ((2, 9, 8, 3), (3, 2, 3, 5), {"window_strides": (2, 1), "padding": "SAME"}),
    "dilated": ((2, 9, 8, 3), (3, 2, 3, 5), {"rhs_dilation": (1, 2), "padding": "VALID"}),
    "groups": ((2, 9, 8, 4), (3, 3, 2, 6), {"feature_group_count": 2, "padding": "SAME"}),
    "depthwise": ((2, 9, 8, 4), (3, 3, 1, 8), {"feature_group_count": 4, "padding": "SAME"}),
    "one-dimension": ((2, 9, 3), (4, 3, 5), {"padding": "SAME"}),
    "three-dimensions": ((2, 5, 4, 6, 3), (2, 3, 2, 3, 5), {"padding": "SAME"}),
}


def gradients_of_a_convolution(x, kernel, window_strides=None, **arguments):
    import jax

    n = x.ndim - 2
    space = "DHW"[-n:]
    dimensions = (f"N{space}C", f"{space}IO", f"N{space}C")

    def total(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, window_strides or (1,) * n, dimension_numbers=dimensions, **arguments
        )
        return jax.numpy.sum(jax.nn.relu(y) ** 2)

    return jax.grad(total, argnums=(0, 1))(x, kernel)


@pytest.mark.parametrize("name", CASES)
def test_transposed_convolutions_are_the_same(name):
    from keras_cool.backend.jax.convolutions import canonical_convolutions

    rng = np.random.default_rng(0)
    shape, kernel_shape, arguments = CASES[name]
    x, kernel = rng.normal(size=shape), rng.normal(size=kernel_shape)
    x, kernel = x.astype("float32"), kernel.astype("float32")

    def gradients(x, kernel):
        return gradients_of_a_convolution(x, kernel, **arguments)

    expected = gradients(x, kernel)
    assert_all_close(canonical_convolutions(gradients)(x, kernel), expected, rtol=1e-4, atol=1e-4)


def test_no_convolution_of_a_controlled_step_is_left_as_xla_is_slow_with():
    """Batch, space, channels; space, inputs, outputs: those of gradients come otherwise."""
    import jax

    import keras_cool as kc

    inputs = keras.Input((8, 8, 1))
    h = keras.layers.Conv2D(3, 3, activation="relu")(keras.layers.Conv2D(2, 3)(inputs))
    model = kc.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(h)))
    model.compile(kc.optimizers.RK23(0.1), loss="mse")
    data = np.ones((4, 8, 8, 1), "float32"), np.ones((4, 1), "float32")
    model.optimizer.build(model.trainable_variables)
    state = [[v.value for v in variables] for variables in model._state_variables()]
    jaxpr = jax.make_jaxpr(model.train_step)(state, data)
    loops = [e for e in jaxpr.eqns if e.primitive.name == "while"]
    found = [c for e in loops for c in convolutions(e.params["body_jaxpr"].jaxpr)]
    assert (
        len(found) == 4 * 5
    )  # a first step size, three stages; of the first layer no gradient by x
    for dimensions in found:
        assert dimensions.lhs_spec == dimensions.out_spec == (0, 3, 1, 2)
        assert dimensions.rhs_spec == (3, 2, 0, 1)


def convolutions(jaxpr):
    """The dimension numbers of all convolutions in a jaxpr, nested ones included."""
    from jax.extend.core import jaxprs_in_params

    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation.params["dimension_numbers"]
        for inner in jaxprs_in_params(equation.params):
            yield from convolutions(inner)
