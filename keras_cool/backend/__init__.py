"""What a step needs from the backend in use and `keras.ops` has not: one small file a backend."""

from importlib import import_module

from keras_cool.supported_backend import BACKEND

_backend = import_module(f"{__name__}.{BACKEND}")

SameRandomNumbers = _backend.SameRandomNumbers
accumulate = _backend.accumulate
all_finite = _backend.all_finite
all_finite_if = _backend.all_finite_if
apply = _backend.apply
apply_if = _backend.apply_if
gradients_of_all_replicas = _backend.gradients_of_all_replicas
number_in_step = _backend.number_in_step
number_of_replicas = _backend.number_of_replicas
on_all_replicas = _backend.on_all_replicas
over_microbatches = _backend.over_microbatches
scalar_of_microbatch_if = _backend.scalar_of_microbatch_if
sum_over_replicas = _backend.sum_over_replicas
while_loop = _backend.while_loop

__all__ = [
    "SameRandomNumbers",
    "accumulate",
    "all_finite",
    "all_finite_if",
    "apply",
    "apply_if",
    "gradients_of_all_replicas",
    "number_in_step",
    "number_of_replicas",
    "on_all_replicas",
    "over_microbatches",
    "scalar_of_microbatch_if",
    "sum_over_replicas",
    "while_loop",
]
