"""Keras' own tests of its trainer, with the mixin put before the trainer that they test.

The wheel of Keras ships them as `keras/src/trainers/trainer_test.py`; its models are layers mixed
in with a module-level `Trainer`. The environment variable `TRAINER` says what stands in its place:

- `stock`: Keras' own trainer.
- `mixin`: `MultiGradientMixin` over it. A plain optimizer then takes Keras' own `train_step`.
- `step`: the same with an override of `multi_gradient_step` that calls `super`, so that every
  training step is ours.

`compare.py` runs the last, and the others if asked. The file's name keeps it out of the normal run
of the tests.
"""

import importlib
import os
from unittest import mock

import keras

import keras_cool as kc

TRAINERS = {"jax": "JAXTrainer", "tensorflow": "TensorFlowTrainer", "torch": "TorchTrainer"}

backend = keras.backend.backend()
keras_trainer_module = importlib.import_module(f"keras.src.backend.{backend}.trainer")
KerasTrainer = getattr(keras_trainer_module, TRAINERS[backend])


class WithMixin(kc.MultiGradientMixin, KerasTrainer):
    """Stands in for `Trainer` as it is."""


class WithStep(WithMixin):
    """Stands in for `Trainer`, with an override that makes every step ours."""

    steps = 0

    def multi_gradient_step(self, x, y, sample_weight):
        WithStep.steps += 1
        return super().multi_gradient_step(x, y, sample_weight)


variant = os.environ["TRAINER"]
trainer = {"stock": KerasTrainer, "mixin": WithMixin, "step": WithStep}[variant]

# The module looks its `Trainer` up by this name while it is imported, and never again.
with mock.patch.object(keras_trainer_module, TRAINERS[backend], trainer):
    trainer_test = importlib.import_module("keras.src.trainers.trainer_test")

assert trainer_test.Trainer is trainer
TestTrainer = trainer_test.TestTrainer


def test_the_override_takes_the_steps_and_nothing_else_does():
    model = trainer_test.ExampleModel(units=1)
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    before = WithStep.steps
    model.fit(keras.ops.ones((4, 2)), keras.ops.zeros((4, 1)), batch_size=2, verbose=0)
    assert (WithStep.steps > before) == (variant == "step")
