"""What a step needs from the backend in use and `keras.ops` has not: one small file a backend."""

from importlib import import_module

from keras_cool.supported_backend import BACKEND

_backend = import_module(f"{__name__}.{BACKEND}")

SameRandomNumbers = _backend.SameRandomNumbers
accumulate = _backend.accumulate
add_scaled = _backend.add_scaled
all_finite = _backend.all_finite
all_finite_if = _backend.all_finite_if
allow_float64 = _backend.allow_float64
apply = _backend.apply
apply_if = _backend.apply_if
are_finite = _backend.are_finite
as_bytes = _backend.as_bytes
assign_copies = _backend.assign_copies
copies = _backend.copies
further_state = _backend.further_state
gradients_of_all_replicas = _backend.gradients_of_all_replicas
gradients_of_keras_step = _backend.gradients_of_keras_step
number_in_step = _backend.number_in_step
keeping_mode = _backend.keeping_mode
number_of_replicas = _backend.number_of_replicas
on_all_replicas = _backend.on_all_replicas
over_microbatches = _backend.over_microbatches
present_trace = _backend.present_trace
random_state = _backend.random_state
separate = _backend.separate
set_random_state = _backend.set_random_state
sum_of_squared_errors = _backend.sum_of_squared_errors
scalar_of_microbatch_if = _backend.scalar_of_microbatch_if
sum_over_replicas = _backend.sum_over_replicas
known_values = _backend.known_values
of_all_replicas = _backend.of_all_replicas
replica = _backend.replica
undo_unless = _backend.undo_unless
while_loop = _backend.while_loop

__all__ = [
    "SameRandomNumbers",
    "accumulate",
    "add_scaled",
    "all_finite",
    "all_finite_if",
    "allow_float64",
    "apply",
    "apply_if",
    "are_finite",
    "as_bytes",
    "assign_copies",
    "copies",
    "further_state",
    "gradients_of_all_replicas",
    "gradients_of_keras_step",
    "keeping_mode",
    "known_values",
    "number_in_step",
    "number_of_replicas",
    "of_all_replicas",
    "on_all_replicas",
    "over_microbatches",
    "present_trace",
    "random_state",
    "replica",
    "scalar_of_microbatch_if",
    "separate",
    "set_random_state",
    "sum_of_squared_errors",
    "sum_over_replicas",
    "undo_unless",
    "while_loop",
]
