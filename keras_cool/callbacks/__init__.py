"""Callbacks that do the same on every backend, and learning-rate schedules by update."""

from keras_cool.callbacks.accumulation_schedule import AccumulationSchedule
from keras_cool.callbacks.cycle import Cycle
from keras_cool.callbacks.evaluate import Evaluate
from keras_cool.callbacks.finish_window import FinishWindow
from keras_cool.callbacks.one_cycle import OneCycle
from keras_cool.callbacks.warmup import Warmup

__all__ = ["AccumulationSchedule", "Cycle", "Evaluate", "FinishWindow", "OneCycle", "Warmup"]
