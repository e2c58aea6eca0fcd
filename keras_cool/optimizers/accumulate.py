"""`Accumulate`: the soft batch in the optimizer, for batches that are never seen at once."""

import contextlib

import keras
from keras import ops

from keras_cool import backend
from keras_cool.keras_private import trainable_variables_of, variable_layout
from keras_cool.optimizers.accumulation_settings import (
    check_option,
    checked_inner,
    checked_steps,
)
from keras_cool.optimizers.optimizer_wrapper import OptimizerWrapper

NON_FINITE = ("skip_update", "skip_batch")
LAST_WINDOW = ("update", "carry", "drop")


@keras.saving.register_keras_serializable(package="keras_cool")
class Accumulate(OptimizerWrapper):
    r"""Accumulates the gradients of several batches and takes one step with their mean.

    A window of \(k\) batches with the gradients \(g_j\) and the weights \(w_j\) gives the inner
    optimizer

    \[ g = \frac{\sum_j w_j\, g_j}{\sum_j w_j}, \]

    which is the gradient of one batch of all the samples. The inner optimizer sees nothing else:
    its moments, weight decay, clipping, schedules, moving averages of the weights and `iterations`
    go on once a window. It works with any Keras model. On one with
    `keras_cool.MultiGradientMixin` a batch is weighted by its number of samples, or by what its
    loss is divided by (the valid steps of a mask, the sum of the sample weights), `sum` losses are
    added up, and the seeds of random layers are saved; on one without, all batches count alike.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(kc.optimizers.Accumulate("adam", steps=4), loss="mse")
    >>> x, y = keras.ops.ones((64, 2)), keras.ops.ones((64, 1))
    >>> history = model.fit(x, y, batch_size=8, verbose=0)
    >>> int(model.optimizer.iterations)
    2

    Args:
        optimizer: What takes the step: a float (plain gradient descent at that learning rate), a
            `keras.optimizers.schedules.LearningRateSchedule` (the same, on a schedule), the name of
            a Keras optimizer, or a Keras optimizer.
        steps: How many batches make up a window: a positive integer, which `optimizer.steps = 8`
            changes, between epochs too; or a function of the number of updates so far, written with
            `keras.ops` (a `LearningRateSchedule` is one), whose value is rounded, and at least 1.
        non_finite: What happens to a batch whose gradient is not finite, which never reaches the
            weights. `"skip_update"`: the update of its window is skipped, as that of the large
            batch would be. `"skip_batch"`: the batch alone is left out. Both are counted, as
            `skipped_steps` and `skipped_batches`. Defaults to `"skip_update"`.
        last_window: What happens at the end of an epoch to a window that is not full. `"update"`:
            it gives an update, as a smaller last batch does. `"carry"`: the next epoch goes on with
            it. `"drop"`: it is dropped. A model without the mixin needs
            `keras_cool.callbacks.FinishWindow` for it; the window is carried on otherwise. Defaults
            to `"update"`.
        accumulator_dtype: String, the dtype of the accumulators, one copy of the weights; those of
            float64 weights have float64 in any case. Defaults to `"float32"`, also for models of
            16 bits.
        name: String or `None`. The name of the optimizer. Defaults to `"accumulate"`.

    Raises:
        ValueError: If `steps` is not positive, an option is not among those above, or the optimizer
            accumulates itself, takes several gradients a step, or has to be outermost.
        TypeError: If `optimizer` is none of the four, or `steps` is neither an integer nor a
            function.

    Reference:
        Ott, Edunov, Grangier and Auli, 2018, "Scaling Neural Machine Translation", section 3.2
        (delayed updates).
    """

    def __init__(
        self,
        optimizer,
        steps,
        non_finite="skip_update",
        last_window="update",
        accumulator_dtype="float32",
        name=None,
    ):
        super().__init__(checked_inner(optimizer), name)
        check_option("non_finite", non_finite, NON_FINITE)
        check_option("last_window", last_window, LAST_WINDOW)
        self.non_finite = non_finite
        self.last_window = last_window
        self.accumulator_dtype = keras.backend.standardize_dtype(accumulator_dtype)
        if "float" not in self.accumulator_dtype:
            raise ValueError(
                "`accumulator_dtype` is a floating-point dtype, for example 'float32'. It was "
                f"given {accumulator_dtype!r}."
            )
        self._schedule = steps if callable(steps) else None
        self._steps = self._counter("steps")
        if self._schedule is None:
            self._steps.assign(checked_steps(steps))
        self.batches = self._counter("batches")
        self._window_weight = self.add_variable(
            shape=(),
            dtype="float64" if keras.config.floatx() == "float64" else "float32",
            aggregation="only_first_replica",
            name="window_weight",
        )
        self.skipped_steps = self._counter("skipped_steps")
        self.skipped_batches = self._counter("skipped_batches")
        self._accumulators = {}
        self._reached = set()
        self._given = frozenset()
        self._window_is_added_up = False
        self._weight = 1.0
        self._added_up = False
        self.epoch_is_open = False

    @property
    def steps(self):
        """How many batches make up a window: an integer, or the function that says so."""
        return int(self._steps.numpy()) if self._schedule is None else self._schedule

    @steps.setter
    def steps(self, steps):
        if self._schedule is not None or callable(steps):
            raise TypeError(
                "`steps` can be changed from one integer to another. This one "
                f"{'is a function' if self._schedule else 'would become a function'}: make a new "
                "Accumulate with it, and compile the model with that."
            )
        self._steps.assign(checked_steps(steps))

    def build(self, variables):
        """Makes the accumulators, and the variables of the inner optimizer."""
        if any(getattr(v, "overwrite_with_gradient", False) for v in variables):
            raise ValueError(
                "Accumulate adds up gradients, and this model has variables that are overwritten "
                "with theirs (float8 scales). Train it with `microbatch_size=None` and the plain "
                "optimizer."
            )
        super().build(variables)
        for v in variables:
            self._accumulators[id(v)] = self.add_variable(
                shape=v.shape,
                dtype="float64" if v.dtype == "float64" else self.accumulator_dtype,
                aggregation="only_first_replica",
                layout=variable_layout(v),
                name=f"{v.path.replace('/', '_')}_accumulator",
            )

    def apply(self, grads, trainable_variables=None):
        """Adds gradients to the window, and updates the variables when that is full.

        Args:
            grads: List of tensors or `None`, one for each variable and of its shape.
            trainable_variables: List of `keras.Variable`s. Defaults to those it was built on.
        """
        if not self.built:
            self.build(list(trainable_variables))
        variables = trainable_variables or trainable_variables_of(self)
        pairs = list(zip(grads, variables, strict=True))
        self._reached.update(id(v) for g, v in pairs if g is not None)
        self._given = frozenset(id(v) for v in variables)
        self._window_is_added_up = self._added_up
        pairs = [(g, v) for g, v in pairs if id(v) in self._reached]
        if not pairs:
            raise ValueError(
                "No gradients provided for any variable: the loss depends on none of "
                f"{[v.path for v in variables]}. Compute it from the model's output."
            )
        gradients = [ops.zeros(v.shape, v.dtype) if g is None else g for g, v in pairs]
        gradients = backend.gradients_of_all_replicas(gradients)
        weight = self._weight
        if self.non_finite == "skip_batch":
            weight, gradients = self._without_non_finite(weight, gradients)
        # A window starts by overwriting what the one before left: nothing is reset at its end.
        first = self.batches.value == 0
        accumulators = [self._accumulators[id(v)] for _, v in pairs]
        backend.accumulate(accumulators, gradients, weight, first)
        weight = ops.cast(weight, self._window_weight.dtype)
        total = self._window_weight.value
        self._window_weight.assign(ops.where(first, weight, total + weight))
        batches = self.batches.value + 1
        full = batches >= self._present_steps()
        self.batches.assign(ops.where(full, 0, batches))
        self._update_if(full, variables)

    def finish_window(self):
        """Deals with a window that is not full as `last_window` says; outside of a step.

        `keras_cool.callbacks.FinishWindow` calls it at the end of each epoch.
        """
        if self.last_window == "carry" or not self.built or not int(self.batches.numpy()):
            return
        if self.last_window == "update":
            variables = trainable_variables_of(self)
            variables = [v for v in variables if id(v) in self._given] or variables
            backend.on_all_replicas(
                self.batches, lambda: self._update_if(ops.convert_to_tensor(True), variables)
            )
        self.batches.assign(0)

    @contextlib.contextmanager
    def weighing(self, weight, added_up=False):
        """Within it the gradients that `apply` is given count by `weight`.

        Args:
            weight: Scalar, a positive number or a tensor.
            added_up: Boolean. If `True` the gradients of the window are added up with their
                weights, and not divided by the sum of these. Defaults to `False`.
        """
        outer = self._weight, self._added_up
        self._weight, self._added_up = weight, added_up
        try:
            yield
        finally:
            self._weight, self._added_up = outer

    def share(self):
        """A batch's share of the batches of a window, a scalar tensor."""
        return 1.0 / ops.cast(self._present_steps(), self._window_weight.dtype)

    @property
    def batch_weight(self):
        """The weight of the gradients that `apply` is being given, a number or a scalar tensor."""
        return self._weight

    @property
    def window_is_full(self):
        """Whether the step has filled a window, at the end of it: a scalar boolean tensor."""
        return self.batches.value == 0

    def window_gradients(self):
        """The mean gradients over the window that the last step has filled, a list of tensors."""
        total = self._window_weight.value
        values = [v.value for key, v in self._accumulators.items() if key in self._reached]
        return [value / ops.cast(total, value.dtype) for value in values]

    def step_logs(self):
        """What a step adds to the logs: a dictionary of names and scalar tensors."""
        logs = {"skipped_steps": self.skipped_steps.value + 0}  # + 0: a copy
        if self.non_finite == "skip_batch":
            logs["skipped_batches"] = self.skipped_batches.value + 0
        return logs

    def get_config(self):
        """The configuration: the arguments it was made with, `steps` as it is at present."""
        steps = self.steps
        if self._schedule is not None:
            steps = keras.saving.serialize_keras_object(self._schedule)
        return {
            **super().get_config(),
            "steps": steps,
            "non_finite": self.non_finite,
            "last_window": self.last_window,
            "accumulator_dtype": self.accumulator_dtype,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the optimizer that `get_config` describes."""
        steps = config["steps"]
        if not isinstance(steps, int):
            steps = keras.saving.deserialize_keras_object(steps, custom_objects)
        return super().from_config({**config, "steps": steps}, custom_objects)

    def _present_steps(self):
        if self._schedule is None:
            return self._steps.value
        steps = ops.convert_to_tensor(self._schedule(self.iterations.value))
        return ops.maximum(ops.cast(ops.round(ops.cast(steps, "float32")), "int32"), 1)

    def _without_non_finite(self, weight, gradients):
        gradients = [ops.convert_to_tensor(g) for g in gradients]  # sparse ones too
        weight = ops.cast(weight, self._window_weight.dtype)
        finite = backend.all_finite(gradients)
        self.skipped_batches.assign_add(ops.cast(ops.logical_not(finite), "int32"))
        gradients = [ops.where(finite, g, ops.zeros_like(g)) for g in gradients]
        return ops.where(finite, weight, ops.zeros_like(weight)), gradients

    def _update_if(self, full, variables):
        """Takes the step with the mean over the window, if that is `full`, and finite."""
        weight = self._window_weight.value
        reached = [self._accumulators[id(v)].value for v in variables if id(v) in self._reached]
        if self.non_finite == "skip_batch":  # without weight where all batches were left out
            ready = backend.all_finite_if(ops.logical_and(full, weight > 0), reached)
        else:
            ready = backend.all_finite_if(full, reached)

        def update():
            total = ops.ones_like(weight) if self._window_is_added_up else weight
            factor = ops.divide_no_nan(ops.ones_like(total), total * backend.number_of_replicas())
            self.inner_optimizer.apply([self._mean(v, factor) for v in variables], variables)

        backend.apply_if(ready, update)
        skipped = ops.logical_and(full, ops.logical_not(ready))
        self.skipped_steps.assign_add(ops.cast(skipped, "int32"))

    def _mean(self, variable, factor):
        if id(variable) not in self._reached:
            return None
        accumulator = self._accumulators[id(variable)].value
        mean = accumulator * ops.cast(factor, accumulator.dtype)
        return ops.cast(mean, variable.dtype)
