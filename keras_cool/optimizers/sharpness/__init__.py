"""Methods that look for flat minima."""

from keras_cool.optimizers.sharpness.sam import SAM

__all__ = ["SAM"]
