"""Methods for sums of squared residuals, by their Jacobian."""

from keras_cool.optimizers.gauss_newton.levenberg_marquardt import LevenbergMarquardt

__all__ = ["LevenbergMarquardt"]
