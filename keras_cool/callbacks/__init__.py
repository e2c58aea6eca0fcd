"""Callbacks that do the same on every backend."""

from keras_cool.callbacks.finish_window import FinishWindow

__all__ = ["FinishWindow"]
