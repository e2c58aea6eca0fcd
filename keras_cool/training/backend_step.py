"""`BackendStep` of the backend in use: how its `train_step` runs the common step."""

from importlib import import_module

import keras

BackendStep = import_module(f"keras_cool.training.{keras.backend.backend()}").BackendStep

__all__ = ["BackendStep"]
