"""`MultiGradientMixin`: training steps with several gradients, written once for all backends."""

import warnings

import keras

from keras_cool.keras_private import (
    OverlayScope,
    Trainer,
    batch_size,
    forward,
    loss_tracker,
    training_loss,
    unscaled_for_replicas,
)
from keras_cool.training import backend
from keras_cool.training.evaluation import Evaluation, rescale


class MultiGradientMixin(backend.BackendStep):
    """Gives a Keras model training steps that need more than one gradient.

    Put it before `keras.Model` (or `keras.Sequential`, or a class of your own) in the bases. Then
    `compile` takes the multi-gradient optimizers of `keras_cool.optimizers`, and
    `multi_gradient_step` may be overridden: one method, the same on JAX, TensorFlow and PyTorch.
    With a plain Keras optimizer and no override the model trains as it does without the mixin.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> class Classifier(kc.MultiGradientMixin, keras.Model):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.dense = keras.layers.Dense(3, activation="softmax")
    ...
    ...     def call(self, x):
    ...         return self.dense(x)
    >>> model = Classifier()
    >>> model.compile(kc.optimizers.Heun(0.1), loss="sparse_categorical_crossentropy")
    >>> history = model.fit(keras.random.normal((8, 4)), keras.ops.arange(8) % 3, verbose=0)
    >>> sorted(history.history)
    ['gradient_evaluations', 'loss', 'skipped_steps']
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if Trainer in cls.__mro__ and cls.__mro__.index(Trainer) < cls.__mro__.index(
            MultiGradientMixin
        ):
            raise TypeError(
                f"In the bases of {cls.__name__} the mixin has to come first, or Keras' own "
                f"training step hides its: class {cls.__name__}(keras_cool.MultiGradientMixin, "
                "keras.Model)."
            )

    def multi_gradient_step(self, x, y, sample_weight):
        """Takes one training step on one batch. Override it to write a step of your own.

        Inside it, `self.value_and_grad` gives gradients, `self.apply_gradients` lets an optimizer
        use them, and everything else of Keras works as outside: `self(x, training=True)`,
        `self.compute_loss`, `self.compute_metrics`, `variable.assign`. The method runs compiled
        unless the model was compiled with `run_eagerly=True`; state that changes from step to step
        belongs into `keras.Variable`s of the model.

        Example:

        >>> import keras
        >>> import keras_cool as kc
        >>> class Averaged(kc.Model):
        ...     def multi_gradient_step(self, x, y, sample_weight):
        ...         def loss_function():
        ...             return self.compute_loss(x, y, self(x, training=True), sample_weight)
        ...
        ...         variables = self.trainable_variables
        ...         loss, first = self.value_and_grad(loss_function, variables)
        ...         loss, second = self.value_and_grad(loss_function, variables)  # new seeds
        ...         self.apply_gradients([(a + b) / 2 for a, b in zip(first, second)], variables)
        ...         return {"loss": loss}

        Args:
            x: The batch's inputs: a tensor or a nest of tensors, shape `(batch, ...)`.
            y: The batch's targets, or `None`.
            sample_weight: The batch's sample weights, or `None`.

        Returns:
            The logs: a dictionary of names and scalar tensors. A `"loss"` among them is averaged
            over the epoch; the others are shown as the last step gave them.
        """
        method = _multi_gradient_method(self.optimizer)
        if not self.trainable_variables:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
            method = None

        def loss_function():
            y_pred = forward(self, x)
            return training_loss(self, x, y, y_pred, sample_weight), y_pred

        if method is None:
            evaluation = self._take_plain_step(loss_function)
        else:
            evaluation = self._take_estimated_step(method, loss_function)
        self._track_loss(evaluation.loss, x)
        logs = self.compute_metrics(x, y, evaluation.aux, sample_weight=sample_weight)
        return logs if method is None else {**logs, **method.step_logs()}

    def value_and_grad(self, loss_function, variables, has_aux=False, optimizer=None):
        """Gives a loss and its gradients at the present state.

        What the loss function assigns is kept: seeds advance, layer state and metrics are updated,
        as in a forward pass of Keras. Call it inside `multi_gradient_step`.

        Args:
            loss_function: A function without arguments that computes a scalar loss from the model
                and from tensors around it. With `has_aux=True` it returns `(loss, aux)`, `aux` any
                nest of tensors. What it computes leaves it only through what it returns.
            variables: List of the `keras.Variable`s to differentiate by.
            has_aux: Whether `loss_function` returns such a pair. Defaults to `False`.
            optimizer: The Keras optimizer that the gradients are for: its loss scale is the one
                they are computed with under `mixed_float16`. Defaults to the model's own.

        Returns:
            `(loss, gradients)`, or `((loss, aux), gradients)` with `has_aux=True`. `gradients` has
            an entry for each variable: a tensor of its shape, or `None` where the loss does not
            depend on it. Under `mixed_float16` the gradients are those of the loss as it is, the
            loss scale taken out; hand them to `self.apply_gradients`, not to `optimizer.apply`.
            Under a TensorFlow distribution strategy they are this replica's part of the sum that
            the optimizer makes, as in Keras.

        Raises:
            ValueError: If the loss is not a scalar, or `has_aux=True` and there is no pair.
        """
        optimizer = optimizer or getattr(self, "optimizer", None)
        scale_loss = optimizer.scale_loss if optimizer else _identity
        evaluation = Evaluation(_with_aux(loss_function, has_aux), variables, scale_loss)
        loss, gradients = evaluation.raw([v.value for v in variables])
        _assign(evaluation.updates)
        return ((loss, evaluation.aux) if has_aux else loss), gradients

    def apply_gradients(self, gradients, variables, optimizer=None):
        """Lets an optimizer update variables with gradients from `self.value_and_grad`.

        It is `optimizer.apply` with what that leaves to the caller: the loss scale of
        `mixed_float16` goes back in before the optimizer takes it out, and on JAX the state of a
        `LossScaleOptimizer` stays inside the compiled step.

        Args:
            gradients: List of tensors or `None`, one for each variable and of its shape.
            variables: List of the `keras.Variable`s to update.
            optimizer: A Keras optimizer. Defaults to the model's own, from `compile`. Another one
                must be an attribute of the model, and built on its variables before `fit`. Under
                `mixed_float16` put `keras.optimizers.LossScaleOptimizer` around it, and name it in
                `self.value_and_grad` too; without one, gradients that are not finite are dropped.
        """
        optimizer = self.optimizer if optimizer is None else optimizer
        gradients = rescale(gradients, optimizer.scale_loss)

        def update(gradients):
            backend.apply(optimizer, gradients, variables)

        scaled = keras.optimizers.LossScaleOptimizer
        if isinstance(self.optimizer, scaled) and not isinstance(optimizer, scaled):
            finite = backend.all_finite([g for g in gradients if g is not None])
            backend.apply_if(finite, update, gradients)
        else:
            update(gradients)

    def compile(self, *args, **kwargs):
        """Configures the model for training: `keras.Model.compile`."""
        super().compile(*args, **kwargs)
        self.share_seeds()

    def compile_from_config(self, config):
        """Compiles the model as a saved file says; Keras calls it while it loads one."""
        own = type(self).compile is MultiGradientMixin.compile
        if not own or super().compile.__func__ is not keras.Model.compile:
            super().compile_from_config(config)  # with Keras' advice for a `compile` of one's own
            return
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def share_seeds(self):
        """Lets a multi-gradient optimizer save the model's random seeds with its own state."""
        method = _multi_gradient_method(self.optimizer)
        if method is not None:
            method.save_seeds_of(self)

    def takes_plain_step(self):
        """Whether Keras' own `train_step` does all that is asked of this model."""
        overridden = type(self).multi_gradient_step is not MultiGradientMixin.multi_gradient_step
        return not overridden and _multi_gradient_method(self.optimizer) is None

    def run_step(self, data):
        """Runs `multi_gradient_step` on one batch.

        Args:
            data: The batch as `fit` hands it over: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The logs.
        """
        if super(backend.BackendStep, self).train_step.__func__ is not Trainer.train_step:
            raise ValueError(
                f"{type(self).__name__} has a `train_step` of its own, which takes one gradient a "
                "step; a multi-gradient step would not use it. Move what it does into "
                "`compute_loss` (a loss of your own) or into `multi_gradient_step` (a step of your "
                "own), and remove `train_step`."
            )
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._loss_is_tracked = False
        logs = self.multi_gradient_step(x, y, sample_weight)
        if "loss" in logs and not self._loss_is_tracked:
            self._track_loss(logs["loss"], x)
            logs = {**logs, "loss": loss_tracker(self).result()}
        return logs

    def _track_loss(self, loss, x):
        # Keras takes the epoch's "loss" from this running mean, whatever the steps returned.
        loss_tracker(self).update_state(unscaled_for_replicas(loss), sample_weight=batch_size(x))
        self._loss_is_tracked = True

    def _take_plain_step(self, loss_function):
        variables = self.trainable_variables
        evaluation = Evaluation(loss_function, variables, self.optimizer.scale_loss)
        _, gradients = evaluation.raw([v.value for v in variables])
        _assign(evaluation.updates)
        if variables:
            self.apply_gradients(gradients, variables)
        return evaluation

    def _take_estimated_step(self, method, loss_function):
        variables = self.trainable_variables
        evaluation = Evaluation(loss_function, variables, self.optimizer.scale_loss)
        with OverlayScope() as scope:
            estimate = method.estimate_gradient(evaluation, [v.value for v in variables])
            estimate = [e.value if isinstance(e, keras.Variable) else e for e in estimate]
        finite = backend.all_finite(estimate)
        replicas = backend.number_of_replicas()
        if replicas > 1:  # whose gradients `apply` is going to add up
            estimate = [g / replicas for g in estimate]
        gradients = [
            None if missing else g for g, missing in zip(estimate, evaluation.missing, strict=True)
        ]

        # Seeds, metrics and what the method keeps go on in any case; weights of layers (moving
        # statistics), the rest of the method's state and the step itself hold only if the estimate
        # is finite.
        weights, kept = {id(v) for v in self.weights}, {id(v) for v in method.kept_variables}
        _assign((v, value) for v, value in evaluation.updates if id(v) not in weights)
        _assign((v, value) for v, value in scope.updates if id(v) in kept)
        held = [(v, value) for v, value in evaluation.updates if id(v) in weights]
        held += [(v, value) for v, value in scope.updates if id(v) not in kept]
        held_variables, held_values = [v for v, _ in held], [value for _, value in held]
        skips_itself = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)

        def apply(gradients):
            with method.accepting_estimates():
                self.apply_gradients(gradients, variables)

        def update(values, gradients):
            _assign(zip(held_variables, values, strict=True))
            if not skips_itself:
                apply(gradients)

        backend.apply_if(finite, update, held_values, gradients)
        if skips_itself:
            apply(gradients)  # it looks for itself, and lowers its scale
        method.count(evaluation.count, finite)
        return evaluation


def _multi_gradient_method(optimizer):
    """The multi-gradient optimizer that `optimizer` is or wraps, or `None`."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer if hasattr(optimizer, "estimate_gradient") else None


def _assign(updates):
    for variable, value in updates:
        variable.assign(value)


def _with_aux(loss_function, has_aux):
    return loss_function if has_aux else lambda: (loss_function(), None)


def _identity(loss):
    return loss
