"""`LBFGS`: limited-memory BFGS with a strong Wolfe line search."""

import keras

from keras_cool.optimizers.checked_arguments import count
from keras_cool.optimizers.quasi_newton.engine import QuasiNewton
from keras_cool.optimizers.quasi_newton.limited_memory import LimitedMemory


@keras.saving.register_keras_serializable(package="keras_cool")
class LBFGS(QuasiNewton):
    r"""L-BFGS with a strong Wolfe line search, for training on the full batch.

    One training step runs up to `max_iterations` iterations on its batch, in one compiled loop. An
    iteration goes from \(p\) along \(-H g\), where \(g\) is the gradient and \(H\) the inverse
    Hessian that follows from the last `memory` steps and changes of the gradient, and finds its
    step size \(\alpha\) by a line search for the strong Wolfe conditions

    \[ f(p - \alpha H g) \le f(p) - c_1 \alpha\, g^T H g, \qquad
       |g(p - \alpha H g)^T H g| \le c_2\, g^T H g. \]

    The memory goes on from step to step and is saved with the model. A pair that would break the
    positivity of \(H\) is left out. A trial whose loss is not finite makes the step shorter. If the
    decrease of the loss is lost in its rounding, the slope alone decides (the approximate Wolfe
    conditions), so that training in float32 goes on. If nothing is lower along \(-H g\), the memory
    is cleared and the next iteration goes along the gradient.

    Give it the full batch: `fit(..., batch_size=len(x))`, with `microbatch_size` in `compile` if it
    does not fit. On mini-batches each step minimises its own batch; a warning says so. Random
    layers have the same seeds in all evaluations of a step. Batch normalisation uses the statistics
    of the batch at every trial, and updates its moving averages once a step.

    When a tolerance is met, `converged` in the logs is 1, and `fit` stops after the epoch and says
    why. `quasi_newton_iterations` in the logs counts the iterations, and `step_size` is the last
    \(\alpha\).

    A step holds up to `4 * memory + 12` copies of the parameters, the state `2 * memory + 2`.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.LBFGS(), loss="mse")
    >>> x = keras.random.normal((64, 3))
    >>> history = model.fit(x, x[:, :1] - 1, batch_size=64, epochs=10, verbose=0)
    >>> model.evaluate(x, x[:, :1] - 1, verbose=0) < 1e-9
    True

    Args:
        memory: Integer, the number of steps and changes of the gradient that are kept. Defaults to
            10.
        max_iterations: Integer, the number of iterations of a training step. Defaults to 20.
        max_evaluations: Integer, the number of gradient evaluations after which a training step
            begins no other iteration. Defaults to `None`: `1.25 * max_iterations + 1`.
        line_search: `"strong_wolfe"`.
        gradient_tolerance: Float. Training has converged when no entry of the gradient is larger in
            magnitude. Defaults to `1e-7`.
        change_tolerance: Float. Training has converged when an iteration moves no weight further
            than this, times the largest weight if that is larger than 1. Defaults to `1e-9`.
        first_step: Float, the step size that is tried first along the gradient, as long as there
            are no pairs. Defaults to `None`: `min(1, 1 / norm(gradient))`.
        c1: Float, the constant of sufficient decrease. Defaults to `1e-4`.
        c2: Float, the constant of curvature. Defaults to 0.9.
        name: String or `None`, the name of the optimizer. Defaults to `"lbfgs"`.

    Raises:
        ValueError: If an argument is out of its range, or not `0 < c1 < c2 < 1`.

    Reference:
        Liu and Nocedal, 1989, "On the limited memory BFGS method for large scale optimization";
        Nocedal and Wright, 2006, "Numerical Optimization", algorithm 7.5; for the line search and
        the form of \(H\) see `line_search.py` and `limited_memory.py`.
    """

    def __init__(
        self,
        memory=10,
        max_iterations=20,
        max_evaluations=None,
        line_search="strong_wolfe",
        gradient_tolerance=1e-7,
        change_tolerance=1e-9,
        first_step=None,
        c1=1e-4,
        c2=0.9,
        name=None,
    ):
        super().__init__(
            max_iterations=max_iterations,
            max_evaluations=max_evaluations,
            line_search=line_search,
            gradient_tolerance=gradient_tolerance,
            change_tolerance=change_tolerance,
            first_step=first_step,
            c1=c1,
            c2=c2,
            name=name,
        )
        self.memory = count("LBFGS", "memory", memory)

    def _make_inverse_hessian(self, variables, dtype):
        return LimitedMemory(self, variables, self.memory, dtype)

    def get_config(self):
        """The configuration: the arguments."""
        return {"memory": self.memory, **super().get_config()}
