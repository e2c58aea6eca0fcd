"""The ways in which a callback does the same: compiled and eager, with the mixin and without."""

import keras

import keras_cool as kc

BACKEND = keras.backend.backend()

# Arguments of `compile`. On PyTorch Keras has no `steps_per_execution`, and compiles if asked to.
COMPILED = {
    "jax": {"compiled": {"jit_compile": True}, "two-steps": {"steps_per_execution": 2}},
    "tensorflow": {"compiled": {"jit_compile": True}, "two-steps": {"steps_per_execution": 2}},
    "torch": {"compiled": {}},
}[BACKEND]
WAYS = {"eager": {"run_eagerly": True}, **COMPILED}
MODELS = {"plain": keras.Model, "mixin": kc.Model}
