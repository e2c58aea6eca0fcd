"""Learning-rate schedules that Keras lacks, for the `learning_rate` of any optimizer."""

from keras_cool.optimizers.schedules.cycle import Cycle
from keras_cool.optimizers.schedules.one_cycle import OneCycle
from keras_cool.optimizers.schedules.warmup import Warmup

__all__ = ["Cycle", "OneCycle", "Warmup"]
