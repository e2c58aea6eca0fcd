"""A soft batch equals the large batch: every row of the table, by each way that can express it."""

import keras
import pytest

import keras_cool as kc
from harness import soft_batch_rows as table

WAYS = {
    "microbatch_size": (kc.Model, table.LARGE, {"microbatch_size": table.SMALL}),
    "Accumulate, mixin": (kc.Model, table.SMALL, {"wrap": True}),
    "Accumulate": (keras.Model, table.SMALL, {"wrap": True, "callbacks": True}),
}


def train(row, way):
    model_class, batch_size, options = WAYS[way]
    options = dict(options)
    if options.pop("wrap", False):
        options["wrap"] = lambda optimizer: kc.optimizers.Accumulate(optimizer, table.COUNT)
    if options.get("callbacks"):
        options["callbacks"] = [kc.callbacks.FinishWindow()]
    return table.weights_after(row, model_class, batch_size, **options)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.name)
def test_equals_the_large_batch(row):
    several_points = hasattr(row.optimizer(), "estimate_gradient")
    reference = kc.Model if several_points else keras.Model
    expected, logs = table.weights_of_the_large_batch(row, reference)
    for way in WAYS:
        if way in row.inexact:
            continue
        weights, history = train(row, way)
        difference = table.relative_difference(weights, expected)
        assert difference <= row.tolerance, f"{way}: {difference:.1e}"
        if way == "microbatch_size" or "Accumulate" not in row.inexact:
            loss = pytest.approx(logs["loss"], rel=max(1e-5, row.tolerance))
            assert history["loss"] == loss, way
