"""Callbacks that do the same on every backend."""

import warnings

from keras_cool.callbacks.accumulation_schedule import AccumulationSchedule
from keras_cool.callbacks.gradient_noise_scale import GradientNoiseScale
from keras_cool.callbacks.learning_rate_finder import LearningRateFinder
from keras_cool.callbacks.python_metric import PythonMetric
from keras_cool.callbacks.rescue import Rescue
from keras_cool.callbacks.schedule import Schedule
from keras_cool.callbacks.slow_weights import SlowWeights
from keras_cool.callbacks.step_monitor import StepMonitor
from keras_cool.callbacks.trajectory import Trajectory
from keras_cool.callbacks.weight_averaging import WeightAveraging
from keras_cool.optimizers import schedules
from keras_cool.training.finish_window import FinishWindow

_RENAMED = {
    "Evaluate": ("callbacks.PythonMetric", PythonMetric),
    "StepReport": ("callbacks.StepMonitor", StepMonitor),
    "Cycle": ("optimizers.schedules.Cycle", schedules.Cycle),
    "OneCycle": ("optimizers.schedules.OneCycle", schedules.OneCycle),
    "Warmup": ("optimizers.schedules.Warmup", schedules.Warmup),
}


def __getattr__(name):
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new, value = _RENAMED[name]
    warnings.warn(
        f"keras_cool.callbacks.{name} is now keras_cool.{new}. The old name will be "
        "removed in the next release.",
        FutureWarning,
        stacklevel=2,
    )
    return value


__all__ = [
    "AccumulationSchedule",
    "FinishWindow",
    "GradientNoiseScale",
    "LearningRateFinder",
    "PythonMetric",
    "Rescue",
    "Schedule",
    "SlowWeights",
    "StepMonitor",
    "Trajectory",
    "WeightAveraging",
]
