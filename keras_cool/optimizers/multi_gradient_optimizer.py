"""`MultiGradientOptimizer`: base of the methods that need gradients at several points."""

from collections.abc import Callable

from keras import ops

from keras_cool.optimizer_roles import GradientEstimator
from keras_cool.optimizers.inner_optimizer import as_keras_optimizer
from keras_cool.optimizers.optimizer_wrapper import OptimizerWrapper


class MultiGradientOptimizer(OptimizerWrapper, GradientEstimator):
    r"""Base class of optimizers that need gradients at several points to take one step.

    Such a method is a gradient estimator: it asks for gradients at points of its choice and returns
    one estimate, which an ordinary Keras optimizer applies. Clipping, weight decay,
    moving averages of the weights and constraints are that optimizer's and act on the estimate;
    `learning_rate`, `iterations`, `weight_decay` and the clipping read and write through to it.

    A subclass writes `estimate_gradient` and nothing else. A method with a state of its own makes
    its variables in `build` and assigns to them with `variable.assign` in `estimate_gradient`.

    The model needs `keras_cool.MultiGradientMixin`, which `keras_cool.inject(model)` gives to a
    model that exists. A step whose estimate is not finite is skipped: weights, optimizer state and
    `iterations` stay as they were, and `skipped_steps` in the logs counts it.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> class GradientAhead(kc.optimizers.MultiGradientOptimizer):
    ...     def estimate_gradient(self, evaluate, point):
    ...         loss, gradients = evaluate(point)
    ...         loss, gradients = evaluate(self.trial_point(point, gradients))
    ...         return gradients
    >>> optimizer = GradientAhead("adam")
    >>> round(float(optimizer.learning_rate), 4)
    0.001

    Args:
        optimizer: The inner optimizer: a float (plain gradient descent at that learning rate), a
            `keras.optimizers.schedules.LearningRateSchedule` (the same, on a schedule), the name of
            a Keras optimizer, or a Keras optimizer.
        name: String or `None`. The name of the optimizer. Defaults to the class's name in snake
            case.

    Raises:
        ValueError: If the learning rate is negative or not finite, the name names no optimizer, or
            the optimizer is one that has to be outermost.
        TypeError: If `optimizer` is none of the four.
    """

    _inject: Callable  # set where both rooms are known, in `keras_cool`

    def __init__(self, optimizer, name=None):
        super().__init__(as_keras_optimizer(optimizer, type(self).__name__), name)
        self._accepting = 0  # calls of `apply_estimate`: each replica of TensorFlow has one
        self._skipped_steps = self._counter("skipped_steps")
        self._gradient_evaluations = self._counter("gradient_evaluations")

    def estimate_gradient(self, evaluate, point):
        """Returns the gradient to hand to the inner optimizer.

        Args:
            evaluate: A function: `evaluate(point)` returns `(loss, gradients)` of the present batch
                at `point`, a list of tensors. `loss` is a scalar tensor, `gradients` a list of
                dense tensors shaped like the point. No variable changes, all evaluations of a step
                see the same random seeds, and the first one has to be at the given point: its loss
                and metrics are the ones logged. `evaluate.variables` are the variables whose
                values make the point; `evaluate.forward(point)` gives the loss alone, and may take
                the place of the first evaluation; `evaluate.while_loop` is `keras.ops.while_loop`
                over a flat list of tensors, in whose body `evaluate` may be called, on replicas
                too.
            point: List of tensors, the present values of the trainable variables.

        Returns:
            List of tensors shaped like `point`. It must not be finite if an evaluation that it
            depends on was not.

        An `evaluate` inside a loop or a branch of `keras.ops` is counted once in
        `gradient_evaluations`, however often it runs; a method that loops overrides `count`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `estimate_gradient(self, evaluate, point)`: it "
            "returns the list of gradients that the inner optimizer is to apply."
        )

    def trial_point(self, point, gradients):
        """Returns the point one plain gradient step away, at the present learning rate.

        Args:
            point: List of tensors.
            gradients: List of tensors shaped like `point`.

        Returns:
            List of tensors, `p - learning_rate * g` for each pair.
        """
        rate = -ops.convert_to_tensor(self.learning_rate)
        trial = [ops.cast(rate, g.dtype) * g for g in gradients]
        for i, p in enumerate(point):
            trial[i] += p  # on PyTorch in place, which saves a pass over the memory
        return trial

    def step_logs(self):
        counters = {
            "gradient_evaluations": self._gradient_evaluations,
            "skipped_steps": self._skipped_steps,
        }
        return {name: counter.value + 0 for name, counter in counters.items()}  # + 0: a copy

    def count(self, gradient_evaluations, finite):
        """Counts the gradient evaluations of a step, and the step as skipped if not `finite`.

        Args:
            gradient_evaluations: Integer, how many the step took.
            finite: Scalar boolean tensor, whether the estimate was.
        """
        self._gradient_evaluations.assign_add(gradient_evaluations)
        skipped = ops.cast(ops.logical_not(finite), self._skipped_steps.dtype)
        self._skipped_steps.assign_add(skipped)

    def inject(self, model):
        """Adds multi-gradient steps with this optimizer to an existing model.

        A compiled model keeps its loss and metrics, and this optimizer replaces its own. A model
        that is not compiled is compiled with it afterwards, as usual.

        Args:
            model: A Keras model.

        Returns:
            The same model.
        """
        return type(self)._inject(model, optimizer=self)

    def apply_estimate(self, apply):
        # Within it `apply` of this optimizer takes gradients: those of `estimate_gradient`.
        self._accepting += 1
        try:
            apply()
        finally:
            self._accepting -= 1

    def apply(self, grads, trainable_variables=None):
        """Hands an estimate to the inner optimizer.

        Raises:
            ValueError: If the gradients come from a model without the mixin.
        """
        if not self._accepting:
            name = type(self).__name__
            raise ValueError(
                f"{name} needs gradients at several points of a step, and was handed one gradient. "
                "If the model lacks keras_cool's mixin, call `keras_cool.inject(model)` before "
                "`fit`, or build it from `keras_cool.Model`. If it has a `multi_gradient_step` of "
                "its own, move the loss into `compute_loss` and leave the step to "
                f"{name}; or compile with an ordinary optimizer."
            )
        if not self.built:
            self.build(trainable_variables)
        self.inner_optimizer.apply(grads, trainable_variables)
