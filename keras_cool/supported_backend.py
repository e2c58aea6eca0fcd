"""`BACKEND`: the Keras backend in use, which has to be one of the three that keras_cool runs on."""

import keras

BACKEND = keras.backend.backend()

if BACKEND not in ("jax", "tensorflow", "torch"):
    raise ImportError(
        "keras_cool runs on the Keras backends jax, tensorflow and torch; the backend in use is "
        f"{BACKEND}. Set KERAS_BACKEND to one of the three before Python starts."
    )
