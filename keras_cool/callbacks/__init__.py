"""Callbacks that do the same on every backend."""

from keras_cool.callbacks.finish_window import FinishWindow
from keras_cool.callbacks.gradient_noise_scale import GradientNoiseScale
from keras_cool.callbacks.schedule import Schedule

__all__ = ["FinishWindow", "GradientNoiseScale", "Schedule"]
