"""Callbacks that do the same on every backend."""

from keras_cool.callbacks.finish_window import FinishWindow
from keras_cool.callbacks.trajectory import Trajectory

__all__ = ["FinishWindow", "Trajectory"]
