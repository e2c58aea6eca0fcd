"""`Lookahead`: slow weights that follow those of a Keras optimizer, every few steps."""

from numbers import Integral, Real

import keras
from keras import ops

from keras_cool import backend
from keras_cool.keras_private import trainable_variables_of
from keras_cool.optimizer_roles import Accumulator, GradientEstimator, has_learning_rate
from keras_cool.optimizers.inner_optimizer import as_keras_optimizer
from keras_cool.optimizers.optimizer_wrapper import OptimizerWrapper


@keras.saving.register_keras_serializable(package="keras_cool")
class Lookahead(OptimizerWrapper):
    r"""Lookahead: every few steps of the inner optimizer, goes back a part of the way.

    After every \(k\) steps, the slow weights \(s\) and then the weights \(p\) become

    \[ s \leftarrow s + r\, (p - s), \qquad p \leftarrow s. \]

    It works with any Keras model and costs no gradient. Training, `evaluate` and `model.save` use
    the weights \(p\) as they are, which between two such steps are the fast ones. With the callback
    `keras_cool.callbacks.SlowWeights`, validation and what is saved use the slow ones.

    It goes inside the methods of this package: `SAM(Lookahead("adam"))`,
    `Accumulate(Lookahead("adam"), 4)`.

    A model holds one more copy of its parameters: the slow weights, which are saved. Weights that
    were set from outside (`set_weights`) are where they start from when the \(k\) steps are over.
    A gradient that is not finite is as bad as for the inner optimizer alone, in Keras.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(kc.optimizers.Lookahead("adam", steps=5, rate=0.5), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    >>> float(model.optimizer.rate)
    0.5

    Args:
        optimizer: The inner optimizer: a float (plain gradient descent at that learning rate), a
            `keras.optimizers.schedules.LearningRateSchedule` (the same, on a schedule), the name of
            a Keras optimizer, or a Keras optimizer.
        steps: Integer, after how many steps of it the slow weights follow: \(k\). Defaults to 5.
        rate: Float above 0 and up to 1, the part of the way that they go: \(r\). Defaults to 0.5.
        name: String or `None`, the name of the optimizer. Defaults to `"lookahead"`.

    Raises:
        ValueError: If `steps` or `rate` are out of their range, or the optimizer is one that has to
            be outside.
        TypeError: If `optimizer` is none of the four.

    Reference:
        Zhang, Lucas, Hinton and Ba, 2019, "Lookahead Optimizer: k steps forward, 1 step back",
        algorithm 1.
    """

    def __init__(self, optimizer, steps=5, rate=0.5, name=None):
        super().__init__(_checked_inner(optimizer), name)
        self.steps = _checked_steps(steps)
        self.rate = _checked_rate(rate)
        self._taken = self._counter("fast_steps")
        self.slow_weights = []

    def build(self, variables):
        """Makes the slow weights, and the variables of the inner optimizer."""
        if self.built:
            return
        super().build(variables)
        self.slow_weights = self._slots(variables, "slow")
        for slow, variable in zip(self.slow_weights, variables, strict=True):
            slow.assign(ops.copy(variable.value))  # of its own: a step on JAX donates both

    def apply(self, grads, trainable_variables=None):
        """Lets the inner optimizer take a step, and the slow weights follow where they are due.

        Args:
            grads: List of tensors or `None`, one for each variable and of its shape.
            trainable_variables: List of `keras.Variable`s. Defaults to those it was built on.
        """
        if not self.built:
            self.build(list(trainable_variables))
        with backend.updates.writing_after([g for g in grads if g is not None]):
            backend.updates.apply_if(self._taken.value == 0, self._start)
            self.inner_optimizer.apply(grads, trainable_variables)
            taken = self._taken.value + 1
            backend.updates.apply_if(taken == self.steps, self._follow)
            self._taken.assign(taken % self.steps)

    def _start(self):
        """The slow weights are where the fast ones are, which may have been set meanwhile."""
        for slow, fast in zip(self.slow_weights, trainable_variables_of(self), strict=True):
            slow.assign(ops.copy(fast.value))

    def _follow(self):
        for slow, fast in zip(self.slow_weights, trainable_variables_of(self), strict=True):
            value = self._between(slow.value, fast.value, fast.constraint)
            slow.assign(ops.copy(value))
            fast.assign(value)

    def _between(self, slow, fast, constraint):
        value = slow + self.rate * (fast - slow)
        return value if constraint is None else constraint(value)

    def followed(self, variable, fast):
        """Returns what a step makes of a variable that the inner optimizer does not move.

        Args:
            variable: One of the `keras.Variable`s to train.
            fast: Tensor, the value that it has before the slow weights may follow.

        Returns:
            `(slow, fast_value, slow_value)`: the `keras.Variable` of its slow weight, and the two
            values after the step.
        """
        (slow,) = self._slots_of(self.slow_weights, [variable])
        start = ops.where(self._taken.value == 0, variable.value, slow.value)
        value = self._between(start, fast, variable.constraint)
        is_last = self._taken.value + 1 == self.steps
        return slow, ops.where(is_last, value, fast), ops.where(is_last, value, start)

    def get_config(self):
        """The configuration: the inner optimizer and the arguments."""
        return {**super().get_config(), "steps": self.steps, "rate": self.rate}


def _checked_inner(optimizer):
    """Returns the Keras optimizer that the first argument stands for, or raises a `ValueError`."""
    if not has_learning_rate(optimizer):
        raise ValueError(
            f"Lookahead was given {type(optimizer).__name__}, which takes many iterations itself. "
            "Train with it alone, or give Lookahead an ordinary Keras optimizer, for example "
            "Lookahead('adam')."
        )
    if isinstance(optimizer, GradientEstimator | Accumulator):
        name = type(optimizer).__name__
        further = ", steps=..." if isinstance(optimizer, Accumulator) else ""
        raise ValueError(
            f"Lookahead was given {name}, which goes around it, not into it. Write "
            f"{name}(Lookahead('adam'){further})."
        )
    if isinstance(optimizer, Lookahead):
        raise ValueError(
            "Lookahead was given Lookahead. Give it an ordinary Keras optimizer, for example "
            "Lookahead('adam')."
        )
    return as_keras_optimizer(optimizer, "Lookahead")


def _checked_steps(steps):
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
        raise ValueError(
            "`steps` of Lookahead is the number of steps after which the slow weights follow, an "
            f"integer, at least 1. It was given {steps!r}. For example: Lookahead('adam', steps=5)."
        )
    return int(steps)


def _checked_rate(rate):
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 < float(rate) <= 1:
        raise ValueError(
            "`rate` of Lookahead is the part of the way that the slow weights go, above 0 and at "
            f"most 1. It was given {rate!r}. For example: Lookahead('adam', rate=0.5)."
        )
    return float(rate)
