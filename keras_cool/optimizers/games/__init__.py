"""Methods for games: what one part of the weights lowers, another raises."""

from keras_cool.optimizers.games.extragradient import Extragradient
from keras_cool.optimizers.games.optimistic_gradient import OptimisticGradient

__all__ = ["Extragradient", "OptimisticGradient"]
