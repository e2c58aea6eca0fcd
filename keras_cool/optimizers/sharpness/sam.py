"""`SAM`: sharpness-aware minimisation, with the second gradient at every step or every few."""

import math
from numbers import Integral, Real
from typing import Any

import keras
from keras import ops

from keras_cool import backend
from keras_cool.float64 import measured_dtype
from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer
from keras_cool.optimizers.sharpness.inner_product import inner_product, norm, quotient
from keras_cool.optimizers.weighted_sum import add_to_smallest


@keras.saving.register_keras_serializable(package="keras_cool")
class SAM(MultiGradientOptimizer):
    r"""Sharpness-aware minimisation. Two evaluations.

    The gradient that the inner optimizer applies is taken where the loss is about largest within
    the distance \(\rho\) from the weights, one step up the gradient \(g\):

    \[ g_1 = g(p), \qquad g_2 = g(p + e), \qquad e = \rho\, \frac{g_1}{\lVert g_1 \rVert}, \]

    with the norm over all variables, or with `adaptive=True` (ASAM), which does not depend on the
    scale of the weights,

    \[ e = \rho\, \frac{p^2 g_1}{\lVert\, |p|\, g_1 \rVert}. \]

    With `interval=k` only every \(k\)-th step takes the second gradient (LookSAM). It keeps the
    part of it that is orthogonal to the first, \(v = g_2 - (g_2 \cdot g_1 / \lVert g_1 \rVert^2)\,
    g_1\), and the steps between apply \(g_1 + \alpha\, (\lVert g_1 \rVert / \lVert v \rVert)\, v\).

    Under `microbatch_size` and on several devices the gradient \(g_1\) is that of the whole batch,
    and so is the perturbation. A zero gradient perturbs nothing. Layer state, such as the
    statistics of a batch normalisation, and the logs come from the first evaluation alone.

    A step holds three extra copies of the parameters: two gradients and a point; with `interval`
    one more, which is saved.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.SAM("adamw", rho=0.05), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    >>> int(history.history["gradient_evaluations"][-1])
    2

    Args:
        optimizer: A learning rate, a schedule, a Keras optimizer or the name of one, as for
            `MultiGradientOptimizer`.
        rho: Float, the length of the perturbation, in units of the weights; with `adaptive=True`
            relative to them. Defaults to 0.05; for `adaptive=True` Kwon and others take ten times
            as much.
        adaptive: Boolean, whether to scale the perturbation by the weights (ASAM). Defaults to
            `False`.
        interval: Integer, the second gradient is taken on every so many steps. Defaults to 1.
        alpha: Float, how much of the kept part the steps between use; without effect if `interval`
            is 1. Defaults to 0.7.
        start: Integer, the number of updates before which every step is one of the inner optimizer
            alone. Defaults to 0.
        per_part: Boolean. If `True`, each micro-batch of `microbatch_size` is perturbed by its own
            gradient (m-sharpness, with m the size of a micro-batch), on replicas each their own.
            Without `microbatch_size` the part is a replica's batch. The parts are the same on all
            backends if the size divides the batch; the smaller part is the first one on TensorFlow
            and the last one elsewhere. Defaults to `False`.
        name: String or `None`, the name of the optimizer. Defaults to `"sam"`.

    Raises:
        ValueError: If `rho` is not positive, `interval` is less than 1, `alpha` or `start` are
            negative, or `adaptive` or `per_part` are no boolean; else as `MultiGradientOptimizer`.
        TypeError: As `MultiGradientOptimizer`.

    Reference:
        Foret, Kleiner, Mobahi and Neyshabur, 2021, "Sharpness-Aware Minimization for Efficiently
        Improving Generalization", algorithm 1 and section 3 (m-sharpness). Kwon, Kim, Park and
        Choi, 2021, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of
        Deep Neural Networks", equation 8. Liu, Mai, Chen, Hsieh and You, 2022, "Towards Efficient
        and Scalable Sharpness-Aware Minimization", algorithm 1 (`interval`).
    """

    def __init__(
        self,
        optimizer,
        rho=0.05,
        adaptive=False,
        interval=1,
        alpha=0.7,
        start=0,
        per_part=False,
        name=None,
    ):
        super().__init__(optimizer, name)
        self.rho = _checked_number("rho", rho, 0.05)
        self.adaptive = _checked_choice("adaptive", adaptive)
        self.interval = _checked_count("interval", interval, least=1)
        self.alpha = _checked_number("alpha", alpha, 0.7)
        self.start = _checked_count("start", start, least=0)
        self.per_part = _checked_choice("per_part", per_part)
        self._evaluations = self._counter("evaluations_of_step")
        self._kept: list = []
        self._kept_norm: Any = None

    @property
    def _is_at_every_step(self):
        return self.interval == 1 and self.start == 0

    def build(self, variables):
        super().build(variables)
        if self.interval > 1:
            self._kept = self._slots(variables, "orthogonal_gradient")
            self._kept_norm = self.add_variable(
                shape=(),
                initializer="zeros",
                dtype=measured_dtype(),
                aggregation="only_first_replica",
                name="norm_of_orthogonal_gradient",
            )

    def estimate_gradient(self, evaluate, point):
        if not self._is_at_every_step:
            return self._estimate_where_due(evaluate, point)
        if self.per_part:
            return evaluate.of_each_part(point, self._perturbed)[1]
        _, first = evaluate(point)
        _, second = evaluate(self._perturbed(point, first))
        return add_to_smallest(second, 0 * norm(first))  # NaN if the first was not finite

    def _estimate_where_due(self, evaluate, point):
        _, first = evaluate(point)
        step = ops.cast(self.iterations.value, "int32") - self.start
        is_due = ops.logical_and(step >= 0, step % self.interval == 0)
        kept = self._slots_of(self._kept, evaluate.variables) if self._kept else []
        state = [v.value for v in (*kept, self._kept_norm)] if kept else []

        # On JAX a gradient that is read in the loop from outside, or after it, costs a copy, run or
        # not.
        def take_second(count, *carried):
            first = carried[: len(point)]
            if self.per_part:
                _, second = evaluate.of_each_part(point, self._perturbed)
            else:
                _, second = evaluate(self._perturbed(point, first))
            square = inner_product(first, first)
            second = add_to_smallest(list(second), 0 * square)
            if not kept:
                return count + 1, *second
            along = quotient(inner_product(second, first), square)
            orthogonal = backend.updates.add_scaled(second, -along, first)
            size = ops.cast(norm(orthogonal), self._kept_norm.dtype)
            return count + 1, *second, *orthogonal, size

        count, *carried = evaluate.while_loop(
            lambda count, *_: ops.logical_and(is_due, count < 1),
            take_second,
            (ops.zeros((), "int32"), *first, *state),
        )
        self._evaluations.assign(1 + count * (2 if self.per_part else 1))
        gradients, state = carried[: len(point)], carried[len(point) :]
        if not kept:
            return gradients
        *orthogonal, size = state
        for variable, value in zip((*kept, self._kept_norm), state, strict=True):
            variable.assign(value)
        present = norm(gradients)  # those of `first`, where the loop has not run
        share = self.alpha * quotient(present, ops.cast(size, present.dtype))
        share = ops.where(is_due, ops.zeros_like(share), share)
        return backend.updates.add_scaled(gradients, share, orthogonal)

    def _perturbed(self, point, gradients):
        """Returns the point at which the loss is about largest within `rho`."""
        if self.adaptive:
            scaled = [ops.abs(p) * g for p, g in zip(point, gradients, strict=True)]
            direction = [ops.abs(p) * s for p, s in zip(point, scaled, strict=True)]
        else:
            scaled = direction = gradients
        size = norm(scaled)
        # NaN where the gradient is not finite, or so large that its square is not.
        length = quotient(self.rho + 0 * size, size)
        return backend.updates.add_scaled(point, length, direction)

    @property
    def kept_variables(self):
        """The variables that a skipped step assigns to as well."""
        # If the second gradient is skipped, so is no update counted: the next step takes it again.
        return [self._evaluations, *([*self._kept, self._kept_norm] if self._kept else [])]

    def count(self, gradient_evaluations, finite):
        if not self._is_at_every_step:  # the loop runs once or not at all
            gradient_evaluations = self._evaluations.value
        super().count(gradient_evaluations, finite)

    def get_config(self):
        """The configuration: the inner optimizer and the arguments."""
        names = ("rho", "adaptive", "interval", "alpha", "start", "per_part")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _checked_number(name, value, example):
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and name == "rho"):
        bound = "positive" if name == "rho" else "not negative"
        raise ValueError(
            f"`{name}` of SAM is a finite number, {bound}. It was given {value!r}. For example: "
            f"SAM('adam', {name}={example})."
        )
    return float(value)


def _checked_choice(name, value):
    if value not in (True, False):
        raise ValueError(
            f"`{name}` of SAM is True or False. It was given {value!r}. For example: "
            f"SAM('adam', {name}=True)."
        )
    return bool(value)


def _checked_count(name, value, least):
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(
            f"`{name}` of SAM is an integer, at least {least}. It was given {value!r}. For "
            f"example: SAM('adam', {name}={least})."
        )
    return int(value)
