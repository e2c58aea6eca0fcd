"""Callbacks that do the same on every backend."""

from keras_cool.callbacks.accumulation_schedule import AccumulationSchedule
from keras_cool.callbacks.cycle import Cycle
from keras_cool.callbacks.evaluate import Evaluate
from keras_cool.callbacks.finish_window import FinishWindow
from keras_cool.callbacks.gradient_noise_scale import GradientNoiseScale
from keras_cool.callbacks.learning_rate_finder import LearningRateFinder
from keras_cool.callbacks.one_cycle import OneCycle
from keras_cool.callbacks.rescue import Rescue
from keras_cool.callbacks.schedule import Schedule
from keras_cool.callbacks.step_report import StepReport
from keras_cool.callbacks.trajectory import Trajectory
from keras_cool.callbacks.warmup import Warmup

__all__ = [
    "AccumulationSchedule",
    "Cycle",
    "Evaluate",
    "FinishWindow",
    "GradientNoiseScale",
    "LearningRateFinder",
    "OneCycle",
    "Rescue",
    "Schedule",
    "StepReport",
    "Trajectory",
    "Warmup",
]
