"""`FullBatchMethod`: base of the methods that run many iterations on the full batch in a step."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_cool.backend import vectors
from keras_cool.float64 import measured_dtype
from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer

LARGEST_MATRIX = 10_000  # rows
SEVERAL = 3  # so many batches in a row that differ are no full batch


def check_matrix(size, dtype, message):
    """Refuses a square matrix of more than 10,000 rows.

    Args:
        size: Integer, the number of its rows.
        dtype: String.
        message: String, what is wrong. In it stand `{size}` and `{memory}`, that of the matrix.
    """
    if size > LARGEST_MATRIX:
        memory = f"{size**2 * np.dtype(dtype).itemsize / 1e9:.1f} GB"
        advice = f"It is for up to {LARGEST_MATRIX:,}. Use keras_cool.optimizers.LBFGS."
        raise ValueError(f"{message.format(size=f'{size:,}', memory=memory)} {advice}")


class FullBatchMethod(MultiGradientOptimizer):
    """Base of `QuasiNewton` and `LevenbergMarquardt`: what they count, and when training ends.

    A subclass gives the names, and keeps what it has found in a step by `_keep`.

    Attributes:
        ITERATIONS: String, the name of the number of iterations in the logs.
        LENGTH: String, what finds the length of a step and what sets it, for an error.
        REASONS: Dictionary of whole numbers above 0 and of why training has ended. In these stand
            the names of settings, in braces, and `{dtype}`.
        ERRORS: Dictionary of other such numbers and of what is wrong.

    Args:
        settings: Dictionary of the method's arguments, with `max_iterations` among them.
        name: String or `None`, the name of the optimizer.
    """

    ITERATIONS: str
    LENGTH: str
    REASONS: dict[int, str]
    ERRORS: dict[int, str]

    def __init__(self, settings, name):
        super().__init__(keras.optimizers.SGD(1.0), name=name)
        self._settings = settings
        self._dtype = measured_dtype()
        self._evaluations = self._counter("evaluations_of_step")
        self._method_iterations = self._counter("iterations_of_method")
        self._why = self._counter("why_converged")
        self._batch = self._counter("last_batch")
        self._batches_in_a_row = self._counter("batches_in_a_row")
        self._has_warned = False

    def _number(self, name):
        """A scalar variable of the dtype that is measured in."""
        return self.add_variable(
            (), "zeros", self._dtype, aggregation="only_first_replica", name=name
        )

    def _keep(self, evaluations, iterations, why):
        """Keeps how many evaluations and iterations a step took, and why it ended: 0, or a key of
        `REASONS`."""
        self._evaluations.assign(evaluations)
        self._method_iterations.assign_add(iterations)
        self._why.assign(why)

    def build(self, variables):
        super().build(variables)
        constrained = [v.path for v in variables if getattr(v, "constraint", None) is not None]
        if constrained:
            raise ValueError(
                f"{type(self).__name__} looks for a minimum without constraints, and {constrained} "
                "have some: held to them afterwards, they would not be at the best point within. "
                "Take the constraints off, for example with exp(w) in place of a w that is not to "
                "be negative, or use an optimizer of Keras."
            )

    def _begin(self, evaluate, gradients):
        """Tells, after the first evaluation of a step, which gradients callbacks are to see, and
        notes whether the batch is another one."""
        evaluate.observed = gradients
        batch = evaluate.fingerprint()
        is_new = (batch != self._batch.value) & (self.iterations.value > 0)
        count = self._batches_in_a_row.value
        self._batches_in_a_row.assign(ops.where(is_new, count + 1, ops.zeros_like(count)))
        self._batch.assign(batch)

    def _estimate(self, evaluate, point, end, invalid):
        """Ends a step: returns the estimate.

        Args:
            evaluate: As for `estimate_gradient`.
            point: List of tensors.
            end: Vector, where the step leads. Of a weight that becomes much smaller, the difference
                from `point` would tell it with the rounding of the larger one.
            invalid: Number, 0 if the step is to be taken, or not finite.
        """
        evaluate.end = vectors.unflattened(end, point)
        return [
            p - q + ops.cast(invalid, p.dtype) for p, q in zip(point, evaluate.end, strict=True)
        ]

    @property
    def kept_variables(self):
        """The variables that a skipped step assigns to as well."""
        return [self._evaluations, self._batch, self._batches_in_a_row, self._why]

    def count(self, gradient_evaluations, finite):
        super().count(self._evaluations.value, finite)

    def step_logs(self):
        return {
            **super().step_logs(),
            "converged": ops.cast(self._why.value > 0, "int32"),
            self.ITERATIONS: self._method_iterations.value + 0,
        }

    def end_epoch(self):
        # Returns why training has come to its end; warns, once, of mini-batches.
        in_a_row, why = (int(v.numpy()) for v in (self._batches_in_a_row, self._why))
        name = type(self).__name__
        if in_a_row >= SEVERAL and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{name} was given another batch at each step. A step minimises the loss of its "
                f"own batch, in up to {self._settings['max_iterations']} iterations, and so leads "
                "away from the others. Train on the full batch: `fit(..., batch_size=len(x))`, "
                "with `microbatch_size` in `compile` where it does not fit.",
                stacklevel=2,
            )
        words = {**self._settings, "dtype": self._dtype}
        if why in self.ERRORS:
            raise ValueError(f"{name}: {self.ERRORS[why].format(**words)}")
        if in_a_row or why == 0:
            return None
        return f"{name} has converged: {self.REASONS[why].format(**words)}."

    @property
    def has_learning_rate(self):
        return False

    @property
    def learning_rate(self):
        """1, as a tensor: the step is applied as it was found."""
        return ops.ones(())

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        raise ValueError(
            f"{type(self).__name__} has no learning rate: {self.LENGTH}. `learning_rate` was set "
            f"to {learning_rate!r}, perhaps by a callback such as LearningRateScheduler or "
            "ReduceLROnPlateau. Train without it."
        )

    def get_config(self):
        """The configuration: the arguments."""
        return {"name": self.name, **self._settings}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)
