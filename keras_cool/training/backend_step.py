"""`BackendStep` of the backend in use: how its `train_step` runs the common step."""

from importlib import import_module

from keras_cool.supported_backend import BACKEND

BackendStep = import_module(f"keras_cool.training.{BACKEND}").BackendStep

__all__ = ["BackendStep"]
