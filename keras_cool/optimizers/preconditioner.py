"""The diagonal preconditioner of the flow that a Keras optimizer follows, fixed during a step."""

import math

import keras
from keras import ops

from keras_cool import keras_private
from keras_cool.optimizer_roles import chain
from keras_cool.optimizers.entrywise import larger

# Measured on ReLU nets with dead units: with any bound from 1 to 100, a step of RK45 over Adam,
# RMSprop or Adagrad gets further than the optimizer's own. Without a bound it never does, in ten
# thousand steps.
BELOW_THE_MEAN = 10.0
OTHERS = 0.01


def preconditioner(optimizer, variables, gradients):
    r"""Returns the diagonal \(P\) of the flow \(\dot p = -P g(p)\) that an optimizer follows.

    The running squares of the gradients are updated with the gradient of the first stage and
    corrected for their start, as in the optimizer itself: at the first step \(P g\) is as long as
    the first step of the optimizer.

    Args:
        optimizer: A Keras optimizer, built on the variables.
        variables: List of the `keras.Variable`s to train.
        gradients: List of tensors, the gradients of the first stage.

    Returns:
        List of tensors shaped like the gradients, or `None` for the identity.
    """
    optimizer = chain(optimizer)[-1]  # that inside a `Lookahead`
    rule = _rule(optimizer)
    if rule is None:
        return None
    return _bounded([rule(optimizer, v, g) for v, g in zip(variables, gradients, strict=True)])


def follows_a_flow(optimizer):
    """Whether a step of the optimizer is gradient descent, preconditioned or not."""
    optimizer = chain(optimizer)[-1]
    return isinstance(optimizer, keras.optimizers.SGD) or _rule(optimizer) is not None


def _bounded(diagonal):
    """Bounds the entries by the root mean square of their reciprocals, the sizes of the gradients.

    It is taken over the variable, and counts as at least `OTHERS` times that of all variables, for
    a variable that no gradient reaches.
    """
    sizes = [1 / d for d in diagonal]
    # Squares overflow in 16 bits.
    wide = [s if "64" in str(s.dtype) else ops.cast(s, "float32") for s in sizes]
    squares = [ops.sum(ops.square(s)) for s in wide]
    counts = [math.prod(s.shape) for s in sizes]
    total = ops.sqrt(sum(ops.cast(q, squares[0].dtype) for q in squares) / sum(counts))
    means = [ops.sqrt(q / n) for q, n in zip(squares, counts, strict=True)]
    floors = [larger(m, OTHERS * ops.cast(total, m.dtype)) / BELOW_THE_MEAN for m in means]
    return [1 / larger(s, ops.cast(f, s.dtype)) for s, f in zip(sizes, floors, strict=True)]


def _adam(optimizer, variable, gradient):
    moment = keras_private.second_moment(optimizer, variable)
    moment = _mean(moment, ops.square(gradient), optimizer.beta_2)
    if optimizer.amsgrad:
        moment = larger(keras_private.largest_second_moment(optimizer, variable), moment)
    return ops.sqrt(_started(optimizer, gradient)) / (ops.sqrt(moment) + optimizer.epsilon)


def _nadam(optimizer, variable, gradient):
    moment = keras_private.second_moment(optimizer, variable)
    moment = _mean(moment, ops.square(gradient), optimizer.beta_2)
    return 1 / (ops.sqrt(moment / _started(optimizer, gradient)) + optimizer.epsilon)


def _lamb(optimizer, variable, gradient):
    diagonal = _nadam(optimizer, variable, gradient)
    size = ops.sqrt(ops.sum(ops.square(variable.value)))
    change = ops.sqrt(ops.sum(ops.square(diagonal * gradient)))
    trust = ops.where((size > 0) & (change > 0), size / change, ops.ones_like(size))
    return trust * diagonal


def _rmsprop(optimizer, variable, gradient):
    moment = keras_private.second_moment(optimizer, variable)
    moment = _mean(moment, ops.square(gradient), optimizer.rho)
    if optimizer.centered:
        mean = keras_private.mean_gradient(optimizer, variable)
        moment = moment - ops.square(_mean(mean, gradient, optimizer.rho))
    return ops.rsqrt(moment + optimizer.epsilon)


def _adagrad(optimizer, variable, gradient):
    total = keras_private.sum_of_squares(optimizer, variable) + ops.square(gradient)
    return ops.rsqrt(total + optimizer.epsilon)


def _adadelta(optimizer, variable, gradient):
    squares, changes = keras_private.running_squares(optimizer, variable)
    squares = _mean(squares, ops.square(gradient), optimizer.rho)
    return ops.sqrt((changes + optimizer.epsilon) / (squares + optimizer.epsilon))


def _adamax(optimizer, variable, gradient):
    norm = keras_private.infinity_norm(optimizer, variable)
    norm = larger(optimizer.beta_2 * norm, ops.abs(gradient))
    return 1 / (norm + optimizer.epsilon)


_RULES = {
    keras.optimizers.Adam: _adam,  # and AdamW, a subclass
    keras.optimizers.Nadam: _nadam,
    keras.optimizers.Lamb: _lamb,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.Adagrad: _adagrad,
    keras.optimizers.Adadelta: _adadelta,
    keras.optimizers.Adamax: _adamax,
}


def _rule(optimizer):
    return next((rule for cls, rule in _RULES.items() if isinstance(optimizer, cls)), None)


def _mean(mean, value, decay):
    return mean + (value - mean) * (1 - decay)


def _started(optimizer, gradient):
    """Returns the bias correction of a running mean that began at zero, after this step."""
    step = ops.cast(optimizer.iterations + 1, gradient.dtype)
    return 1 - ops.power(ops.cast(optimizer.beta_2, gradient.dtype), step)
