"""`TrainingState`: every bit of a training's state comes back, wherever it is kept and laid out."""

import contextlib

import keras
import numpy as np
import pytest

from keras_cool import Model, backend
from keras_cool.callbacks.shared.training_state import TrainingState, variables_of
from keras_cool.optimizers import Heun
from keras_cool.training.random_generators import RandomGenerators
from support.replicas import PLACES

BACKEND = keras.backend.backend()
X, Y = np.ones((16, 4), "float32"), np.ones((16, 1), "float32")
DTYPES = ["float32", "bfloat16", "float16", "int32", "int8", "uint8", "bool"]


class OfAllDtypes(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 1))
        self.further = [
            self.add_weight(shape=shape, initializer="zeros", dtype=dtype, trainable=False)
            for dtype in DTYPES
            for shape in ((), (3, 2))
        ]

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)


def small_model(**arguments):
    inputs = keras.Input((4,))
    x = keras.layers.BatchNormalization()(keras.layers.Dropout(0.3)(inputs))
    model = Model(inputs, OfAllDtypes()(x))
    model.compile(arguments.pop("optimizer", "adam"), loss="mse", metrics=["mae"], **arguments)
    return model


def bits(model):
    """The bytes of all copies of all variables."""
    copies = backend.snapshots.copies(variables_of(model))
    return [np.array(backend.snapshots.as_bytes(copy)) for copy in copies]


def same(first, second):
    return len(first) == len(second) and all(map(np.array_equal, first, second))


@pytest.mark.parametrize("kept", ["device", "disk"])
@pytest.mark.parametrize("place", PLACES)
def test_every_bit_comes_back_twice(place, kept, tmp_path):
    with place():
        model = small_model()
        model.fit(X, Y, batch_size=8, verbose=0)
        for i, variable in enumerate(model.non_trainable_variables):
            if "seed" not in variable.path and "moving" not in variable.path:
                variable.assign(np.full(variable.shape, i % 2 + 0.5).astype(variable.dtype))
        before = bits(model)
        layouts = [str(getattr(v.value, "sharding", None)) for v in variables_of(model)[:3]]
        path = tmp_path / "state.npz" if kept == "disk" else None
        state = TrainingState(model, path)
        for _ in range(2):  # JAX donates the state to each step
            model.fit(X, Y, batch_size=8, verbose=0)
            assert not same(bits(model), before)
            state.put_back()
            assert same(bits(model), before)
        after = [str(getattr(v.value, "sharding", None)) for v in variables_of(model)[:3]]
        assert after == layouts
        if place is contextlib.nullcontext or BACKEND != "tensorflow":
            return
        # Each replica has statistics of its own.
        statistics = next(v for v in model.variables if "moving_mean" in v.path)
        assert len(backend.snapshots.copies([statistics])) == 2


def test_optimizers_beside_the_models_own_and_counts_belong_to_it():
    model = small_model(microbatch_size=4)
    model.discriminator_optimizer = keras.optimizers.Adam()
    model.discriminator_optimizer.build(model.trainable_variables)
    ids = {id(v) for v in variables_of(model)}
    assert {id(v) for v in model.discriminator_optimizer.variables} <= ids
    assert {id(v) for v in model.optimizer.variables} <= ids
    assert {id(v) for v in model.metrics_variables} <= ids
    assert {id(v) for v in model.variables} <= ids
    assert any("skipped_steps" in v.path for v in variables_of(model))


def test_methods_with_a_state_of_their_own():
    model = small_model(optimizer=Heun("adam"))
    model.fit(X, Y, batch_size=8, verbose=0)
    before, state = bits(model), TrainingState(model)
    model.fit(X, Y, batch_size=8, verbose=0)
    state.put_back()
    assert same(bits(model), before)


@pytest.mark.backend("torch")
def test_buffers_of_wrapped_modules():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.BatchNorm1d(1))
    model = keras.Sequential([keras.Input((4,)), keras.layers.TorchModuleWrapper(module)])
    model.compile("sgd", loss="mse")
    model.fit(X, Y, verbose=0)
    mean, state = module[1].running_mean.clone(), TrainingState(model)
    model.fit(X, Y, verbose=0)
    assert not torch.equal(module[1].running_mean, mean)
    state.put_back()
    assert torch.equal(module[1].running_mean, mean)
    assert int(module[1].num_batches_tracked) == 1


def test_generators_give_the_same_numbers_again():
    import random

    def draw():
        numbers = [random.random(), np.random.random()]  # noqa: NPY002
        if BACKEND == "torch":
            import torch

            numbers.append(float(torch.rand(())))
        if BACKEND == "tensorflow":
            import tensorflow as tf

            numbers.append(float(tf.random.get_global_generator().uniform(())))
        numbers += list(keras.ops.convert_to_numpy(keras.random.uniform((2,))))
        return numbers

    generators = RandomGenerators()  # before Keras has made its own
    first = draw()
    generators.put_back()
    assert draw() == first
    generators = RandomGenerators()
    second = draw()
    generators.put_back()
    assert draw() == second != first
