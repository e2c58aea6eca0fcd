"""`MultiGradientMixin`: training steps with several gradients, written once for all backends."""

import inspect
import warnings
from typing import Any

import keras
import numpy as np

from keras_cool import backend
from keras_cool.gradients.transforms import per_sample_gradients
from keras_cool.keras_private import (
    OverlayScope,
    Trainer,
    batch_size,
    eager_build,
    forward,
    loss_tracker,
    measures_outputs,
    training_loss,
    unscaled_for_replicas,
)
from keras_cool.optimizer_roles import (
    accumulators,
    gradient_estimator,
    may_accumulate,
    optimizers_of,
)
from keras_cool.training import out_of_memory, row_updates
from keras_cool.training.batch_weights import BatchWeights
from keras_cool.training.closed_form import closed_form_of
from keras_cool.training.compilation import Compilation, check_does_not_accumulate
from keras_cool.training.evaluation import Evaluation, Objective, rescale
from keras_cool.training.fit_callbacks import as_numbers, with_own_callbacks
from keras_cool.training.step import assign, check_no_overwriting, take_step
from keras_cool.training.step_hooks import StepHooks
from keras_cool.training.step_of_ones_own import (
    check_bases,
    check_forward,
    check_gradients,
    check_logs,
    check_signature,
    checked_variables,
    with_aux,
)
from keras_cool.training.two_passes import TwoPasses

BackendStep: Any = backend.train_step.BackendStep


class MultiGradientMixin(Compilation, BackendStep):
    """Adds training steps with several gradients to a Keras model.

    Put it before `keras.Model` (or `keras.Sequential`, or a class of your own) in the bases. Then
    `compile` takes the multi-gradient optimizers of `keras_cool.optimizers`, and
    `multi_gradient_step` may be overridden: one method, the same on JAX, TensorFlow and PyTorch.
    With a plain Keras optimizer and no override the model trains as it does without the mixin.

    A model that knows its gradient in closed form says it in a method
    `closed_form_gradient(self, x, y, sample_weight)`, which takes the place of automatic
    differentiation in `fit`: see `keras_cool.check_gradient`.

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
        check_bases(cls, MultiGradientMixin)
        if "multi_gradient_step" in vars(cls):
            check_signature(cls)

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
        variables, method = self.trainable_variables, gradient_estimator(self.optimizer)
        if not variables:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
            method = None
        elif method is None:
            method = self._single_gradient
        if method is not None:
            check_no_overwriting(variables)
        if accumulators(self.optimizer):
            method = None

        closed_form = closed_form_of(self)

        def summarise(x, y, sample_weight, y_pred, loss):
            self._track_loss(loss, x)
            if closed_form is not None and measures_outputs(self):
                y_pred = forward(self, x)
            return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

        objective = self._objective(closed_form)._replace(summarise=summarise)
        batch = (x, y, sample_weight)
        tables = self._row_sparse.among(variables, self) if self._row_sparse else ()
        evaluation = self._evaluation(
            objective, batch, variables, self.optimizer, self.whole_batch_loss, tables
        )
        return take_step(self, evaluation, method)

    def value_and_grad(
        self, loss_function, variables, has_aux=False, optimizer=None, batch=None, forward=None
    ):
        """Returns a loss and its gradients at the present state.

        What the loss function assigns is kept: seeds advance, layer state and metrics are updated,
        as in a forward pass of Keras. Call it inside `multi_gradient_step`.

        Args:
            loss_function: A function that computes a scalar loss from the model. It has no
                arguments and uses tensors around it, or with `batch` it is called with the parts of
                that. With `has_aux=True` it returns `(loss, aux)`, `aux` any nest of tensors. What
                it computes leaves it only through what it returns.
            variables: List of the `keras.Variable`s to differentiate by.
            has_aux: Whether `loss_function` returns such a pair. Defaults to `False`.
            optimizer: The Keras optimizer that the gradients are for: its loss scale is the one
                they are computed with under `mixed_float16`. Defaults to the model's own.
            batch: Tuple of nests of tensors, samples first, or `None`. A model that was compiled
                with `microbatch_size` needs it to know what to split: `loss_function(*batch)` is
                then called with one micro-batch after another, and its loss taken for a mean over
                the samples (Keras' own losses of any reduction included). The scalars in `aux` are
                averaged in the same way, its other tensors have the samples as their first
                dimension and are joined. An empty tuple says that there is nothing to split.
            forward: A function `forward(*batch)` that computes the outputs, any nest of tensors,
                samples first, or scalars that are means over the samples; or `None`. With it the
                loss is one of the whole batch, `loss_function(*batch, outputs)`, and only `forward`
                is called with micro-batches, twice with each (`whole_batch_loss` of `compile`).
                What `aux` holds is then handed on as it is. Under a TensorFlow distribution
                strategy `loss_function` is called with the batch of all replicas.

        Returns:
            `(loss, gradients)`, or `((loss, aux), gradients)` with `has_aux=True`. `gradients` has
            an entry for each variable: a tensor of its shape, or `None` where the loss does not
            depend on it. Under `mixed_float16` the gradients are those of the loss as it is, the
            loss scale taken out; hand them to `self.apply_gradients`, not to `optimizer.apply`.
            Under a TensorFlow distribution strategy they are this replica's part of the sum that
            the optimizer makes, as in Keras.

        Raises:
            ValueError: If the loss is not a scalar, if `has_aux=True` and there is no pair, if the
                model has a `microbatch_size` and there is no `batch`, if it was compiled with
                `whole_batch_loss=True` and there is no `forward`, or if there is a `forward` and
                the optimizer accumulates over batches.
        """
        if self.microbatch_size is not None and batch is None:
            raise ValueError(
                f"The model was compiled with microbatch_size={self._size_as_given()!r}, and "
                "`value_and_grad` was not told what to split. Hand it the batch, and let the loss "
                "function take its parts: self.value_and_grad(lambda x, y: ..., variables, "
                "batch=(x, y)). With `batch=()` the loss is computed at once."
            )
        check_forward(forward, batch, self.microbatch_size is not None and self.whole_batch_loss)
        optimizer = optimizer or getattr(self, "optimizer", None)
        variables = checked_variables(variables, "value_and_grad")
        loss_function = with_aux(loss_function, has_aux)
        objective = Objective(
            forward or loss_function,
            loss=lambda *part: part[-1][0],
            aux=lambda outputs: outputs[1],
            head=loss_function if forward else None,
        )
        evaluation = self._evaluation(
            objective, batch or (), variables, optimizer, is_of_whole=forward is not None
        )
        loss, gradients = evaluation.of_replica([v.value for v in variables])
        assign(evaluation.updates)
        self.step_hooks.events.weights.note(evaluation, optimizer)
        return ((loss, evaluation.aux) if has_aux else loss), gradients

    def per_sample_gradients(self, loss_function, variables, batch, has_aux=False):
        """Returns the loss and the gradients of each sample of a batch, at the present state.

        What `keras_cool.per_sample_gradients` is to functions of tensors, with the same conventions
        for random layers and for those that learn from the batch. Call it inside
        `multi_gradient_step`.

        Args:
            loss_function: A function that is called with the parts of one sample after another, in
                batches of one, shape `(1, ...)`, and computes a scalar loss from the model. With
                `has_aux=True` it returns `(loss, aux)`, `aux` any nest of tensors.
            variables: List of the `keras.Variable`s to differentiate by.
            batch: Tuple of nests of tensors, samples first. A part may be `None`.
            has_aux: Whether `loss_function` returns such a pair. Defaults to `False`.

        Returns:
            `(losses, gradients)`, or `((losses, aux), gradients)` with `has_aux=True`. The losses
            have the shape `(samples,)`, the gradients `(samples, ...)` with the shape of the
            variable behind, or `None` where the loss does not depend on it. They are those of the
            loss as it is, without the loss scale of `mixed_float16`.

        Raises:
            ValueError: As `keras_cool.per_sample_gradients`; also if the model has a
                `microbatch_size`.
        """
        if self.microbatch_size is not None:
            raise ValueError(
                f"The model was compiled with microbatch_size={self.microbatch_size}, and "
                "`per_sample_gradients` computes all samples at once. Compile without, and give "
                "`fit` smaller batches."
            )
        variables = checked_variables(variables, "per_sample_gradients")

        def function(point, sample):
            part = keras.tree.map_structure(lambda x: None if x is None else x[None], sample)
            with OverlayScope(zip(variables, point, strict=True)) as scope:
                result = loss_function(*part)
            assign(scope.updates)
            return result

        return per_sample_gradients(function, has_aux)(variables, batch)

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

        Raises:
            ValueError: If there is not one gradient for each variable.
            TypeError: If `variables` are none, or `optimizer` is no Keras optimizer.
        """
        optimizer = self.optimizer if optimizer is None else optimizer
        variables = checked_variables(variables, "apply_gradients")
        check_gradients(gradients, variables, optimizer)
        events = self.step_hooks.events
        with events.weights.counting(optimizer, variables):
            if optimizer is self.optimizer:
                events.gradients(gradients, of_all_replicas=False)
            self._apply(optimizer, gradients, variables)

    def _apply(self, optimizer, gradients, variables):
        """Lets an optimizer update variables, as `apply_gradients`, unseen by the callbacks."""
        gradients = rescale(gradients, optimizer.scale_loss)

        def update(gradients):
            row_updates.apply(optimizer, gradients, variables)

        scaled = keras.optimizers.LossScaleOptimizer
        if isinstance(self.optimizer, scaled) and not isinstance(optimizer, scaled):
            finite = backend.updates.all_finite([g for g in gradients if g is not None])
            backend.updates.apply_if(finite, update, gradients)
        else:
            update(gradients)

    def fit(self, *args, **kwargs):
        """Trains the model: `keras.Model.fit`.

        What the steps count (`step_counts`) is in the logs of each epoch, and not in the progress
        bar. Under `keras_cool.optimizers.Accumulate`, `keras_cool.callbacks.FinishWindow` runs
        before the callbacks that are given.
        """
        # A `fit` of one's own may order its arguments in another way than Keras'.
        names = list(inspect.signature(super().fit).parameters)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        self.step_hooks.keep(given.get("callbacks") or [])
        callbacks = given.get("callbacks")
        if not self._is_plain:
            accumulates = may_accumulate(*optimizers_of(self))
            callbacks = with_own_callbacks(callbacks, accumulates, given.get("verbose", "auto"))
        place = names.index("callbacks") if "callbacks" in names else len(args)
        if place < len(args):
            args = (*args[:place], callbacks, *args[place + 1 :])
        else:
            kwargs["callbacks"] = callbacks
        try:
            with out_of_memory.advised(None if self._automatic_size else out_of_memory.IN_FIT):
                history = super().fit(*args, **kwargs)
                backend.memory.finished(getattr(history, "history", None))
                return history
        except BaseException:  # Ctrl-C too; Keras tells the callbacks nothing
            for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or []):
                if hasattr(callback, "on_train_error"):
                    callback.on_train_error()
            raise

    def evaluate(self, *args, **kwargs):
        """Evaluates the model: `keras.Model.evaluate`."""
        with out_of_memory.advised(out_of_memory.IN_EVALUATE):
            return backend.memory.finished(super().evaluate(*args, **kwargs))

    def predict(self, *args, **kwargs):
        """Predicts: `keras.Model.predict`."""
        with out_of_memory.advised(out_of_memory.IN_PREDICT):
            return super().predict(*args, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        """Takes one step: `keras.Model.train_on_batch`. With `return_dict=True` what the steps
        count (`step_counts`) is among the logs."""
        if kwargs.get("class_weight") is None and len(args) < 4:  # for which Keras wants arrays
            args, kwargs = keras.tree.map_structure(_as_tensor, (args, kwargs))
        logs = super().train_on_batch(*args, **kwargs)
        return {**self.step_counts(), **logs} if isinstance(logs, dict) else logs

    def step_counts(self):
        """What the steps have counted so far, outside of a step.

        Returns:
            A dictionary of names and Python numbers: `gradient_evaluations`, `skipped_steps` and
            the like of a multi-gradient optimizer, of `Accumulate` or of `microbatch_size`; empty
            for a plain optimizer. With `microbatch_size="auto"` it has the size in use.
        """
        optimizer = getattr(self, "optimizer", None)
        method, single = gradient_estimator(optimizer), self._single_gradient
        counters = [method] if method is not None else accumulators(optimizer)
        if not counters and single is not None and single.has_counted:
            counters = [single]
        counts: dict = {}
        for counter in counters:  # several `Accumulate`s in a `MultiOptimizer`
            for name, value in as_numbers(counter.step_logs()).items():
                counts[name] = counts.get(name, 0) + value
        if self._automatic_size is not None and self._automatic_size.size is not None:
            counts["microbatch_size"] = self._automatic_size.size
        return counts

    def takes_plain_step(self):
        """Whether Keras' own `train_step` does all that is asked of this model."""
        overridden = type(self).multi_gradient_step is not MultiGradientMixin.multi_gradient_step
        return (
            not overridden
            and not self.step_hooks.callbacks
            and self.microbatch_size is None
            and not self.whole_batch_loss
            and self._row_sparse is None
            and getattr(self, "closed_form_gradient", None) is None
            and gradient_estimator(self.optimizer) is None
            and not accumulators(self.optimizer)
        )

    def run_step(self, data):
        """Runs `multi_gradient_step` on one batch.

        Args:
            data: The batch as `fit` hands it over: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The logs.
        """
        self.check_no_train_step()
        data = keras.tree.map_structure(_as_tensor, data)  # `train_on_batch` hands arrays over
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = BatchWeights(batch_size(x), weighs=not self._is_plain)
        with self.step_hooks.step(weights, optimizers_of(self)) as events:
            logs = self.multi_gradient_step(x, y, sample_weight)
        check_logs(logs, type(self).__name__)
        if "loss" in logs and not events.has_tracked_loss:
            self._track_loss(logs["loss"], x)
            logs = {**logs, "loss": loss_tracker(self).result()}
        return logs

    def check_no_train_step(self):
        """Refuses a model with a `train_step` of its own.

        Of a subclass of a model with the mixin one that does not call this one either.
        """
        below = super(BackendStep, self).train_step.__func__ is not Trainer.train_step
        own = type(self).train_step
        above = own is not BackendStep.train_step
        # It would call it by its name: super().train_step(...).
        code = getattr(inspect.unwrap(own), "__code__", None)
        calls_ours = code is not None and "train_step" in code.co_names
        if below or (above and not calls_ours):
            raise ValueError(
                f"{type(self).__name__} has a `train_step` of its own, which takes one gradient a "
                "step; a multi-gradient step, `microbatch_size`, `row_sparse`, or a callback that "
                "acts inside the step, would not use it. Move what it does into `compute_loss` (a "
                "loss of your own) or into `multi_gradient_step` (a step of your own), and remove "
                "`train_step`."
            )

    @property
    def step_hooks(self):
        """The callbacks that act inside the step, `StepHooks`."""
        if "_step_hooks" not in self.__dict__:
            self.__dict__["_step_hooks"] = StepHooks()  # past Keras, which would track it
        return self.__dict__["_step_hooks"]

    def make_train_function(self, force=False):
        """Makes the training function, anew if other callbacks take part in the step."""
        super().make_train_function(self._has_to_be_made("train", force))

    def make_test_function(self, force=False):
        """Makes the function that evaluates, as `make_train_function` that of training."""
        super().make_test_function(self._has_to_be_made("test", force))

    def make_predict_function(self, force=False):
        """Makes the function that predicts, as `make_train_function` that of training."""
        super().make_predict_function(self._has_to_be_made("predict", force))

    def _has_to_be_made(self, kind, force):
        """Whether a function has to be made anew; before any is, variables that share a buffer, as
        weights and their average do on JAX at the end of `fit`, get one of their own: the steps
        donate them."""
        force = self.step_hooks.are_new_to(kind) or force
        optimizer = getattr(self, "optimizer", None)
        backend.snapshots.separate([*self.variables, *(optimizer.variables if optimizer else [])])
        return force

    def test_step(self, *args):
        """Evaluates one batch, with the numbers that callbacks give a step: Keras calls it."""
        with self.reading_state(*args):
            during_step = self.step_hooks.during_step()
        with during_step:
            return super().test_step(*args)

    def predict_step(self, *args):
        """Predicts one batch, with the numbers that callbacks give a step: Keras calls it."""
        with self.reading_state(*args):
            during_step = self.step_hooks.during_step()
        with during_step:
            return super().predict_step(*args)

    def _objective(self, closed_form):
        def loss(x, y, sample_weight, y_pred):
            return training_loss(self, x, y, y_pred, sample_weight)

        return Objective(lambda x, y, w: forward(self, x), loss, closed_form=closed_form)

    def _gradient_of(self, data, closed_form):
        """Returns loss and gradients of a batch outside of a step, in closed form or, if that is
        `None`, by automatic differentiation."""
        data = keras.tree.map_structure(_as_tensor, data)
        eager_build(self, data)
        batch, variables = keras.utils.unpack_x_y_sample_weight(data), self.trainable_variables
        objective = self._objective(closed_form)
        evaluation = self._evaluation(objective, batch, variables, self.optimizer)
        with self.recording_nothing():
            return evaluation.of_replica([v.value for v in variables])

    def _evaluation(self, objective, batch, variables, optimizer, is_of_whole=False, tables=()):
        """Returns the `Evaluation` of a loss, of the whole batch or a mean over its samples."""
        events = self.step_hooks.events
        size = self.microbatch_size
        is_split = isinstance(size, int) and bool(keras.tree.flatten(batch))
        is_own = is_split and optimizer is getattr(self, "optimizer", None)
        first = events.first_evaluation() if is_own else None
        if is_of_whole:
            check_does_not_accumulate(optimizer)
        in_two_passes = is_of_whole and (is_split or backend.updates.number_of_replicas() > 1)
        return (TwoPasses if in_two_passes else Evaluation)(
            objective,
            batch,
            variables,
            scale_loss=optimizer.scale_loss if optimizer else _no_scale,
            microbatch_size=size if is_split else None,
            window_share=events.weights.window_share(optimizer),
            kinds=self._loss_kinds,
            numbers=events.numbers,
            tables=tables,
            events=first,
        )

    def _track_loss(self, loss, x):
        # Keras takes the epoch's "loss" from this running mean, whatever the steps returned.
        loss_tracker(self).update_state(unscaled_for_replicas(loss), sample_weight=batch_size(x))
        self.step_hooks.events.has_tracked_loss = True


def _no_scale(loss):
    return loss


def _as_tensor(leaf):
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "biuf":
        return leaf
    dtype = keras.config.floatx() if leaf.dtype.kind == "f" else None  # as `fit` does
    return keras.ops.convert_to_tensor(leaf, dtype=dtype)
