"""`LazyMomentum` against NumPy: momentum on the rows of a batch, and no other row moves."""

import numpy as np
import pytest

import keras_cool as kc
from support.embeddings import assert_other_rows_stay, trained_on_given_rows


def numpy_lazy_momentum(weights, batches, rate=0.1, momentum=0.9, nesterov=False):
    velocity = np.zeros_like(weights)
    for indices, values in batches:
        gradient = np.zeros_like(weights)
        np.add.at(gradient, indices, values)
        read = np.unique(indices)
        velocity[read] = momentum * velocity[read] - rate * gradient[read]
        ahead = momentum * velocity[read] - rate * gradient[read]
        weights[read] += ahead if nesterov else velocity[read]
    return weights


@pytest.mark.parametrize("nesterov", [False, True])
def test_against_numpy(nesterov):
    optimizer = kc.optimizers.LazyMomentum(0.1, nesterov=nesterov)
    before, batches, after = trained_on_given_rows(optimizer)
    expected = numpy_lazy_momentum(before, batches, nesterov=nesterov)
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)


def test_other_rows_stay():
    assert_other_rows_stay(kc.optimizers.LazyMomentum(0.1))
