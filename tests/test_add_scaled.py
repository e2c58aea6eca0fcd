"""`add_scaled` and `sum_of_squared_errors` of each backend, against NumPy in float64."""

import numpy as np
import pytest
from keras import ops

from keras_cool import backend

add_scaled = backend.updates.add_scaled
sum_of_squared_errors = backend.updates.sum_of_squared_errors

RNG = np.random.default_rng(0)
T, S = RNG.normal(size=(2, 700, 400))


def tensors(*arrays, dtype="float64"):
    return [ops.convert_to_tensor(a, dtype) for a in arrays]


@pytest.mark.parametrize("factor", [1.0, 0.1])
@pytest.mark.parametrize("scalar", [float, lambda x: ops.convert_to_tensor(x, "float64")])
def test_a_scaled_sum_is_not_rounded_to_float32(factor, scalar, float64):
    t, o = tensors(T, S)
    np.testing.assert_allclose(
        add_scaled([t], scalar(factor), [o])[0], T + factor * S, rtol=1e-12, atol=1e-15
    )
    np.testing.assert_array_equal(t, T)
    np.testing.assert_array_equal(o, S)


@pytest.mark.parametrize("into", [0, 1])
def test_a_scaled_sum_in_place_is_the_same(into, float64):
    lists = [tensors(T), tensors(S)]
    result = add_scaled(lists[0], 0.1, lists[1], lists[into])
    np.testing.assert_allclose(result[0], T + 0.1 * S, rtol=1e-12, atol=1e-15)


def test_squared_errors_of_more_entries_than_one_part(float64):
    e = RNG.normal(size=T.shape)
    expected = np.sum((e / (1e-6 + 1e-3 * np.maximum(abs(T), abs(S)))) ** 2)
    total = sum_of_squared_errors(*tensors(e, T, S), 1e-3, 1e-6)
    np.testing.assert_allclose(total, expected, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("which", [0, 2])
def test_an_error_or_a_point_that_is_not_finite_shows(bad, which):
    arrays = [np.ones(300_000) for _ in range(3)]
    arrays[which][-1] = bad
    total = sum_of_squared_errors(*tensors(*arrays, dtype="float32"), 1e-3, 1e-6)
    assert not np.isfinite(float(total))
