"""Callbacks that do the same on every backend."""

from keras_cool.callbacks.finish_window import FinishWindow
from keras_cool.callbacks.learning_rate_finder import LearningRateFinder
from keras_cool.callbacks.rescue import Rescue

__all__ = ["FinishWindow", "LearningRateFinder", "Rescue"]
