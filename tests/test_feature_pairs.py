"""Features that are documented to go together, by pairs: each equals the plain large batch.

A new kind of loss joins with a row of `LOSSES`, and a new way of training with a line of `WAYS`.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import keras
import pytest

import keras_cool as kc
from harness import soft_batch_rows as table
from support.replicas import two_devices

# Rows of the table of soft batches: what a loss is divided by, and what else a window has to weigh.
LOSSES = [
    row
    for row in table.ROWS
    if row.name
    in {
        "sample weights",
        "class weights",
        "mean_with_sample_weight loss",
        "sum loss",
        "two sum losses, last window not full",
        "L2 regulariser, sum loss",
        "activity regulariser",
        "masked sequence, unequal lengths",
        "masked sequence, weights of steps",
        "the same, mean_with_sample_weight loss",
        "masked and unmasked output",
        "two outputs with loss weights",
        "last batch smaller",
        "InfoNCE, two towers",
        "Dice over the batch",
    }
]


class OwnStep(kc.Model):
    """The default step, written out as users write it, in two calls of the optimizer."""

    def multi_gradient_step(self, x, y, sample_weight):
        def loss_function(x, y, sample_weight):
            return self.compute_loss(x, y, self(x, training=True), sample_weight)

        of_whole = {}
        if self.whole_batch_loss:
            of_whole["forward"] = lambda x, y, sample_weight: self(x, training=True)

            def loss_function(x, y, sample_weight, y_pred):
                return self.compute_loss(x, y, y_pred, sample_weight)

        variables = self.trainable_variables
        loss, gradients = self.value_and_grad(
            loss_function, variables, batch=(x, y, sample_weight), **of_whole
        )
        self.apply_gradients(gradients[:2], variables[:2])
        self.apply_gradients(gradients[2:], variables[2:])
        return {"loss": loss}


def injected(inputs, outputs):
    return kc.inject(keras.Model(inputs, outputs))


def one_device():
    return contextlib.nullcontext()


def divisible(data):
    """Batches of which each device gets as many samples, as Keras on JAX wants them."""
    size = len(keras.tree.flatten(data["x"])[0]) // 4 * 4
    return keras.tree.map_structure(
        lambda values: values[:size] if hasattr(values, "shape") else values, data
    )


def one_step_at_a_time():
    """Waits for each step: many that wait for each other on one CPU may stop it for good."""
    return keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: float(logs["loss"])
    )


def accumulating(steps):
    return lambda optimizer: kc.optimizers.Accumulate(optimizer, steps)


def scaled(optimizer):
    """`apply` of a `LossScaleOptimizer` runs in threads of their own under a strategy."""
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**7)


def split(size, **options):
    return {"microbatch_size": size, **options}


def with_heun(optimizer):
    return kc.optimizers.Heun(optimizer)


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to train with what is the large batch.

    Attributes:
        batch_size: The number of samples that `fit` is given at a time.
        like: Which entry of `row.inexact` says what it cannot express, or `None`.
        model: Makes the model of inputs and outputs.
        wrap: Makes the optimizer of the row's own.
        options: Further arguments of `compile`.
        scope: The context in which the model is made and trained.
        reference: What wraps the optimizer that the large batch is trained with.
        reference_scope: The context in which that is done.
    """

    batch_size: int
    like: str | None
    model: Callable = kc.Model
    wrap: Callable = lambda optimizer: optimizer
    options: dict = dataclasses.field(default_factory=dict)
    scope: Callable = one_device
    reference: Callable = lambda optimizer: optimizer
    reference_scope: Callable = one_device


SMALL, LARGE = table.SMALL, table.LARGE
WINDOW = "Accumulate, mixin"

WAYS = {
    "micro-batches in windows": Way(LARGE // 2, WINDOW, wrap=accumulating(2), options=split(12)),
    "own step, windows": Way(SMALL, WINDOW, OwnStep, accumulating(4)),
    "own step, micro-batches": Way(LARGE, None, OwnStep, options=split(SMALL)),
    "own step, both": Way(LARGE // 2, WINDOW, OwnStep, accumulating(2), split(SMALL)),
    "injected, windows": Way(SMALL, WINDOW, injected, accumulating(4)),
    "loss scale, windows": Way(SMALL, WINDOW, wrap=lambda o: scaled(accumulating(4)(o))),
    "Heun, micro-batches": Way(LARGE, None, wrap=with_heun, options=split(12), reference=with_heun),
    "replicas, windows": Way(SMALL, WINDOW, wrap=accumulating(4), scope=two_devices),
    "replicas, loss scale, windows": Way(
        SMALL, WINDOW, wrap=lambda o: scaled(accumulating(4)(o)), scope=two_devices
    ),
    # Keras' own mean over replicas is that of their means: the same large batch on the same ones.
    "replicas, micro-batches": Way(
        LARGE, None, options=split(8), scope=two_devices, reference_scope=two_devices
    ),
    # A loss that splits, as one of the whole batch; on replicas that is the batch of all of them.
    "whole-batch loss": Way(LARGE, None, options=split(12, whole_batch_loss=True)),
    "whole-batch loss, Heun": Way(
        LARGE,
        None,
        wrap=with_heun,
        options=split(SMALL, whole_batch_loss=True),
        reference=with_heun,
    ),
    "whole-batch loss, replicas": Way(
        LARGE, None, options=split(12, whole_batch_loss=True), scope=two_devices
    ),
}

_expected: dict = {}


def of_the_large_batch(row, way):
    key = row.name, len(row.data()["x"]), way.reference, way.reference_scope
    if key not in _expected:
        model = keras.Model if way.reference is Way.reference else kc.Model
        with way.reference_scope():
            _expected[key], _ = table.weights_after(
                row, model, LARGE, way.reference, callbacks=[one_step_at_a_time()]
            )
    return _expected[key]


@pytest.mark.filterwarnings("ignore:The model has several losses")
@pytest.mark.thinned(3)
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("row", LOSSES, ids=lambda row: row.name)
def test_a_pair_equals_the_large_batch(row, way, monkeypatch):
    if way.like in row.inexact:
        return
    monkeypatch.setattr(table, "EPOCHS", 1)
    if two_devices in (way.scope, way.reference_scope):
        if keras.backend.backend() == "torch":
            pytest.skip("Keras trains on one device under PyTorch")
        row = dataclasses.replace(row, data=lambda data=row.data: divisible(data()))
    if row.of_whole_batch:  # Keras' own loss is that of each replica
        way = dataclasses.replace(way, reference_scope=one_device)
    expected = of_the_large_batch(row, way)
    options = dict(way.options)
    if way.scope is two_devices:
        options["callbacks"] = [one_step_at_a_time()]
    with way.scope():
        weights, _ = table.weights_after(row, way.model, way.batch_size, way.wrap, **options)
    assert table.relative_difference(weights, expected) <= max(row.tolerance, 2e-6)
