"""What a step needs from the backend in use and `keras.ops` has not: one small file a backend."""

from importlib import import_module

import keras

_backend = import_module(f"{__name__}.{keras.backend.backend()}")

SameRandomNumbers = _backend.SameRandomNumbers
add_scaled = _backend.add_scaled
all_finite = _backend.all_finite
apply = _backend.apply
apply_if = _backend.apply_if
dense_sum_over_replicas = _backend.dense_sum_over_replicas
number_of_replicas = _backend.number_of_replicas
on_all_replicas = _backend.on_all_replicas
over_microbatches = _backend.over_microbatches
sum_over_replicas = _backend.sum_over_replicas

__all__ = [
    "SameRandomNumbers",
    "add_scaled",
    "all_finite",
    "apply",
    "apply_if",
    "dense_sum_over_replicas",
    "number_of_replicas",
    "on_all_replicas",
    "over_microbatches",
    "sum_over_replicas",
]
