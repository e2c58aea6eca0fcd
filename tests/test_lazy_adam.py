"""`LazyAdam` against NumPy: Adam on the rows of a batch, and no other row moves."""

import keras
import numpy as np

import keras_cool as kc
from support.comparisons import assert_same_weights
from support.embeddings import (
    SkipGram,
    assert_other_rows_stay,
    make,
    trained_on_given_rows,
)


def numpy_lazy_adam(weights, batches, rate=0.1, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    m, v = np.zeros_like(weights), np.zeros_like(weights)
    for t, (indices, values) in enumerate(batches, start=1):
        gradient = np.zeros_like(weights)
        np.add.at(gradient, indices, values)
        read = np.unique(indices)
        m[read] += (1 - beta_1) * (gradient[read] - m[read])
        v[read] += (1 - beta_2) * (gradient[read] ** 2 - v[read])
        scale = rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        weights[read] -= scale * m[read] / (np.sqrt(v[read]) + epsilon)
    return weights


def test_against_numpy():
    before, batches, after = trained_on_given_rows(kc.optimizers.LazyAdam(0.1))
    np.testing.assert_allclose(after, numpy_lazy_adam(before, batches), rtol=1e-5, atol=1e-6)


def test_other_rows_stay():
    assert_other_rows_stay(kc.optimizers.LazyAdam(0.1, amsgrad=True))


def test_on_a_dense_gradient_it_is_adam():
    models = []
    for optimizer in (kc.optimizers.LazyAdam, keras.optimizers.Adam):
        model = make(SkipGram, kc.Model)
        model.compile(optimizer(0.1, amsgrad=True), loss=SkipGram.loss)
        model.fit(*SkipGram.data(), 16, verbose=0, shuffle=False)
        models.append(model)
    assert_same_weights(*models, 1e-6)
