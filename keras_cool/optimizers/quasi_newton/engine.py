"""`QuasiNewton`: base of the quasi-Newton methods, their state and what they report."""

from typing import Any

from keras import ops

from keras_cool.backend import scalars, vectors
from keras_cool.optimizers.full_batch import FullBatchMethod
from keras_cool.optimizers.optimizer_wrapper import code_of_variables
from keras_cool.optimizers.quasi_newton import settings
from keras_cool.optimizers.quasi_newton.iterations import ERRORS, REASONS, Iterations, Progress


class QuasiNewton(FullBatchMethod):
    """Base of the quasi-Newton methods. A subclass says what the inverse Hessian is.

    Args:
        name: String or `None`, the name of the optimizer.
        arguments: Those that all of the methods have, as `LBFGS` describes them.
    """

    ITERATIONS = "quasi_newton_iterations"
    LENGTH = "a line search finds each step size, and `first_step` sets the first trial"
    REASONS = REASONS
    ERRORS = ERRORS

    def __init__(self, name=None, **arguments):
        super().__init__(settings.checked(type(self).__name__, arguments), name)
        self._hessian: Any = None
        self._of_variables = self._counter("variables_of_pairs")
        self._step_size, self._decrease = self._number("step_size"), self._number("last_decrease")
        self._progress = Progress(
            self._number("last_loss"),
            self._number("lowest_loss"),
            self._number("flattest_gradient"),
            self._counter("iterations_without_progress"),
        )

    def _make_inverse_hessian(self, variables, dtype):
        """Returns the inverse Hessian: an object such as `LimitedMemory`."""
        raise NotImplementedError

    def build(self, variables):
        super().build(variables)
        self._hessian = self._make_inverse_hessian(variables, self._dtype)

    def estimate_gradient(self, evaluate, point):
        hessian, variables = self._hessian, evaluate.variables
        loss, gradients = evaluate(point)
        self._begin(evaluate, gradients)
        iterations = Iterations(evaluate, point, hessian, self._dtype, **self._of_iterations())
        start, gradient = (vectors.flattened(t, self._dtype) for t in (point, gradients))
        kept = (self._decrease, *self._progress[:-1])
        first_loss, decrease, last, lowest, flattest = scalars.known(
            ops.cast(loss, self._dtype), *(ops.convert_to_tensor(v.value) for v in kept)
        )
        stale = scalars.known_count(self._progress.stale.value)
        progress = Progress(last, lowest, flattest, stale)
        curvature = hessian.load(variables, self._is_of(variables))
        end, curvature = iterations.run(first_loss, start, gradient, decrease, progress, curvature)
        hessian.save(curvature, variables)
        self._keep(end.evaluations, end.iterations, end.why)
        self._step_size.assign(end.size)
        self._decrease.assign(end.decrease)
        reached = Progress(end.loss, end.lowest, end.flattest, end.stale)
        for variable, value in zip(self._progress, reached, strict=True):
            variable.assign(value)
        # Not finite if the first loss or gradient was not.
        invalid = 0 * (first_loss + vectors.largest(gradient))
        return self._estimate(evaluate, point, end.point, invalid)

    def _of_iterations(self):
        """The arguments that the iterations take."""
        arguments = {**self._settings, "max_evaluations": self.max_evaluations}
        del arguments["line_search"]  # there is one
        return arguments

    def _is_of(self, variables):
        """Whether what was kept is of these variables; from now on it is."""
        code = code_of_variables(self, variables)
        is_known = scalars.known_count(self._of_variables.value) == code
        self._of_variables.assign(code)
        return is_known

    @property
    def max_evaluations(self):
        """The number of gradient evaluations after which a step begins no other iteration."""
        given = self._settings["max_evaluations"]
        return self._settings["max_iterations"] * 5 // 4 + 1 if given is None else given

    def step_logs(self):
        return {**super().step_logs(), "step_size": self._step_size.value + 0}
