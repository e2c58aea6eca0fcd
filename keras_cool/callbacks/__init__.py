"""Callbacks that do the same on every backend."""

from keras_cool.callbacks.finish_window import FinishWindow
from keras_cool.callbacks.gradient_noise_scale import GradientNoiseScale
from keras_cool.callbacks.schedule import Schedule
from keras_cool.callbacks.step_report import StepReport
from keras_cool.callbacks.trajectory import Trajectory

__all__ = [
    "FinishWindow",
    "GradientNoiseScale",
    "Schedule",
    "StepReport",
    "Trajectory",
]
