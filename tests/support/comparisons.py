"""Comparisons of what was trained: lists of arrays, the weights of models, the whole state."""

import random

import keras
import numpy as np

from keras_cool.keras_private import unseeded_generator


def assert_all_close(arrays, expected, rtol=1e-7, atol=0.0):
    """`numpy.testing.assert_allclose` for two lists, as long as each other."""
    for a, b in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def assert_all_equal(arrays, expected):
    """`numpy.testing.assert_array_equal` for two lists, as long as each other."""
    for a, b in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same_weights(model, expected, tolerance=1e-6):
    """All weights of two models as one vector, by the norm of the difference over that of it."""
    a, b = (
        np.concatenate([np.float64(keras.ops.convert_to_numpy(w)).ravel() for w in m.weights])
        for m in (model, expected)
    )
    assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def assert_same_state(model, expected):
    """All weights of two models, and all variables of their optimizers, to the bit."""
    for of_model in (lambda m: m.weights, lambda m: m.optimizer.variables):
        for a, b in zip(of_model(model), of_model(expected), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


def everything(model):
    """All values that training changes, by name; and the state of the generators."""
    variables = [*model.variables, *model.optimizer.variables]
    values = {f"variable {i}": np.array(v.numpy()) for i, v in enumerate(variables)}
    if keras.backend.backend() == "torch":
        import torch

        values["torch"] = torch.get_rng_state().numpy()
    values["python"], values["numpy"] = random.getstate(), np.random.get_state()[1:]  # noqa: NPY002
    values["keras"] = np.array(unseeded_generator().state.numpy())
    return values


def assert_same_bits(values, expected):
    """`numpy.testing.assert_array_equal` for two results of `everything`."""
    assert values.keys() == expected.keys()
    for name, value in values.items():
        if name in ("python", "numpy"):
            assert str(value) == str(expected[name]), name
        else:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
