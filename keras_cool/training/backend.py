"""What `training` needs from the backend in use; the three files beside this one say how."""

from importlib import import_module

import keras

_backend = import_module(f"keras_cool.training.{keras.backend.backend()}")

BackendStep = _backend.BackendStep
SameRandomNumbers = _backend.SameRandomNumbers
all_finite = _backend.all_finite
apply = _backend.apply
apply_if = _backend.apply_if
number_of_replicas = _backend.number_of_replicas
sum_over_replicas = _backend.sum_over_replicas
while_loop = _backend.while_loop

__all__ = [
    "BackendStep",
    "SameRandomNumbers",
    "all_finite",
    "apply",
    "apply_if",
    "number_of_replicas",
    "sum_over_replicas",
    "while_loop",
]
