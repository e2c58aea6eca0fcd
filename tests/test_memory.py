"""How many copies of the parameters a step holds at most, counted while it runs eagerly."""

import gc
import time

import keras
import pytest
from keras import ops

import keras_cool as kc

SIZE = 977
BACKEND = keras.backend.backend()

# The trial point, the gradient just taken there, and whatever else the method still needs.
COPIES = {
    "Heun": ({}, 3),
    "Midpoint": ({}, 2),
    "Ralston": ({}, 3),
    "RK4": ({}, 3),
    "RK23": ({"adaptive": False}, 3),
    "RK45": ({"adaptive": False}, 6),
    "Tsit5": ({"adaptive": False}, 6),
    "RK23-controlled": ({}, 5),
    "RK45-controlled": ({}, 6),
    "Tsit5-controlled": ({}, 7),
    "RungeKuttaChebyshev": ({"stages": 9}, 4),
    "RungeKuttaChebyshev-2": ({"stages": 9, "order": 2}, 5),
}


def copies():
    """How many tensors of the size of the parameters there are."""
    if BACKEND == "jax":
        import jax

        return sum(array.size == SIZE for array in jax.live_arrays())
    tensors = [x for x in gc.get_objects() if type(x).__name__ in ("Tensor", "EagerTensor")]
    return sum(tuple(x.shape) == (SIZE,) for x in tensors)


class Evaluation:
    """Stands for an evaluation, and counts what is held at the end of each."""

    variables = ()

    def __init__(self):
        self.most, self.before = 0, copies()

    def __call__(self, point):
        gradients = [p * 0.5 + 0.1 for p in point]
        self.most = max(self.most, copies() - self.before)
        return ops.zeros(()), gradients

    def while_loop(self, cond, body, loop_vars):
        while bool(cond(*loop_vars)):
            loop_vars = body(*loop_vars)
        return list(loop_vars)


@pytest.fixture(autouse=True)
def only_new_objects():
    """Leaves what exists already out of what the garbage collector lists."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_the_parameters(name):
    arguments, expected = COPIES[name]
    method = getattr(kc.optimizers, name.split("-")[0])(0.1, **arguments)
    point = [ops.full((SIZE,), 0.5)]
    evaluate = Evaluation()
    method.estimate_gradient(evaluate, point)
    assert evaluate.most == expected


# By XLA on the CPU, which adds up the gradients of a fixed step at its end, and holds them until
# then; the loop over the tries holds copies of its own.
COMPILED = {
    "Heun": 3,
    "Midpoint": 2,
    "RK4": 5,
    "RK45": 6,
    "RK23-controlled": 8,
    "RungeKuttaChebyshev": 10,
}


@pytest.mark.backend("jax")
@pytest.mark.parametrize("name", COMPILED)
def test_copies_of_a_compiled_step(name):
    from solver_memory import planned_copies

    method = getattr(kc.optimizers, name.split("-")[0])(0.1, **COPIES[name][0])
    assert planned_copies(method, layers=1) < COMPILED[name] + 0.5


@pytest.mark.backend("tensorflow")
@pytest.mark.parametrize("options", [{}, {"whole_batch_loss": True}])
def test_micro_batches_run_one_after_another(options):
    """In a graph, what does not wait runs at once, and is in memory together."""
    import tensorflow as tf

    events = []

    def note(event, seconds):
        def function(x):
            time.sleep(seconds)
            events.append(event)
            return x

        # Stateless, so that TensorFlow does not put the calls in an order by itself.
        return lambda x: tf.numpy_function(function, [x], x.dtype, stateful=False)

    @tf.custom_gradient
    def noted(x):
        forward, backward = note("forward", 0), note("backward", 0.1)
        return tf.ensure_shape(forward(x), x.shape), lambda g: tf.ensure_shape(backward(g), x.shape)

    inputs = keras.Input((3,))
    hidden = keras.layers.Lambda(noted, output_shape=(4,))(keras.layers.Dense(4)(inputs))
    model = kc.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile("sgd", "mse", microbatch_size=2, jit_compile=False, **options)
    model.train_on_batch(ops.ones((8, 3)), ops.ones((8, 1)))
    passes = ["forward"] * 4 if options else []
    assert events == [*passes, *["forward", "backward"] * 4]
