"""`Accumulate`: the soft batch in the optimizer, for batches that are never seen at once."""

import contextlib
import warnings

import keras
import numpy as np
from keras import ops

from keras_cool import backend
from keras_cool.float64 import measured_dtype
from keras_cool.keras_private import (
    holds_several,
    is_trained_by,
    trainable_variables_of,
    variable_index,
    variable_layout,
)
from keras_cool.optimizer_roles import Accumulator, Batch
from keras_cool.optimizers.accumulation_settings import (
    check_option,
    checked_inner,
    checked_steps,
)
from keras_cool.optimizers.optimizer_wrapper import OptimizerWrapper
from keras_cool.optimizers.untouched import Untouched
from keras_cool.optimizers.window import Window

NON_FINITE = ("skip_update", "skip_batch")
LAST_WINDOW = ("update", "carry", "drop")


ONE_OF_MANY = Batch()


class _Present:
    """The `Batch` that each replica is being given. Keras would track a plain dictionary."""

    def __init__(self):
        self.batches = {}


@keras.saving.register_keras_serializable(package="keras_cool")
class Accumulate(OptimizerWrapper, Accumulator):
    r"""Accumulates the gradients of several batches and takes one step with their mean.

    A window of \(k\) batches with the gradients \(g_j\) and the weights \(w_j\) gives the inner
    optimizer

    \[ g = \frac{\sum_j w_j\, g_j}{\sum_j w_j}, \]

    which is the gradient of one batch of all the samples. The inner optimizer sees nothing else:
    its moments, weight decay, clipping, schedules, moving averages of the weights and `iterations`
    advance once a window. It works with any Keras model. On one with
    `keras_cool.MultiGradientMixin` a batch is weighted by what its loss is divided by (the number
    of its values, the valid steps of a mask, the sum of the sample weights), `sum` losses are added
    up, and the seeds of random layers are saved; on one without, all batches count alike. A
    variable that no batch of a window reaches is left as it is; one that some do not reach has
    zeros from these.

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
        optimizer: The inner optimizer: a float (plain gradient descent at that learning rate), a
            `keras.optimizers.schedules.LearningRateSchedule` (the same, on a schedule), the name of
            a Keras optimizer, or a Keras optimizer.
        steps: How many batches make up a window: a positive integer, which `optimizer.steps = 8`
            changes, between epochs too; or a function of the number of updates so far, written with
            `keras.ops` (a `LearningRateSchedule` is one), whose value is rounded, and at least 1.
        non_finite: What happens to a batch whose gradient is not finite, which never reaches the
            weights. `"skip_update"`: the update of its window is skipped, as that of the large
            batch would be. `"skip_batch"`: only this batch is left out. Both are counted, as
            `skipped_steps` and `skipped_batches`. Defaults to `"skip_update"`.
        last_window: What happens at the end of an epoch to a window that is not full. `"update"`:
            it gives an update, as a smaller last batch does. `"carry"`: it continues in the next
            epoch. `"drop"`: it is dropped. A model without the mixin needs
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
        self._window = Window(self._window_variable, measured_dtype())
        self.skipped_steps = self._counter("skipped_steps")
        self.skipped_batches = self._counter("skipped_batches")
        self._accumulators = []
        self._present = _Present()

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
        if self.built:
            return
        super().build(variables)
        self._window.build(len(variables))
        self._accumulators = [
            self.add_variable(
                shape=v.shape,
                dtype="float64" if v.dtype == "float64" else self.accumulator_dtype,
                aggregation="only_first_replica",
                layout=variable_layout(v),
                name=f"{v.path.replace('/', '_')}_accumulator",
            )
            for v in variables
        ]

    def apply(self, grads, trainable_variables=None):
        """Adds gradients to the window, and updates the variables when that is full.

        A batch may come in several calls, each for some of the variables: under
        `keras_cool.MultiGradientMixin` they are the calls of one step, and elsewhere a batch ends
        where a variable comes again. Each call takes a step when its batch fills the window.

        Args:
            grads: List of tensors or `None`, one for each variable and of its shape.
            trainable_variables: List of `keras.Variable`s. Defaults to those it was built on.

        Raises:
            ValueError: If there is no gradient at all, or a variable is not among those that the
                optimizer was built on.
        """
        if not self.built:
            self.build(list(trainable_variables))
        batch = self.present_batch
        variables = list(trainable_variables or trainable_variables_of(self))
        self.check_variables(variables)
        given = [v for v in batch.variables or variables if v.trainable and is_trained_by(self, v)]
        pairs = [(g, v) for g, v in zip(grads, variables, strict=True) if g is not None]
        present = [v for _, v in pairs]
        self._check_gradients(present, given)
        with backend.updates.writing_after([g for g, _ in pairs]):
            self._take_in(batch, given, pairs)

    def _take_in(self, batch, given, pairs):
        """Takes in the gradients of a call, and updates if its batch fills the window.

        Args:
            batch: The `Batch` that they are of.
            given: List of the variables that the call is for.
            pairs: List of pairs of a gradient and its variable.
        """
        present = [v for _, v in pairs]
        gradients, weight = backend.updates.of_all_replicas([g for g, _ in pairs], batch.weight)
        taken = None
        if self.non_finite == "skip_batch":
            weight, gradients, taken = self._without_non_finite(weight, gradients)
        # Nobody says where a batch ends without the mixin: where a part of it was frozen meanwhile.
        ended = [v for v in trainable_variables_of(self) if not v.trainable]
        fresh, factor = self._window.take_in(
            self._mask([*given, *present]),
            self._mask(present),
            self._mask(ended if batch is ONE_OF_MANY else []),
            weight,
            batch.adds_up,
            taken,
            self._now(),
        )
        places = self._places(present)
        backend.updates.accumulate(
            [self._accumulators[i] for i in places], gradients, factor, fresh, places
        )
        certain = {id(v) for v in present}
        others = [v for v in trainable_variables_of(self) if v.trainable and id(v) not in certain]
        self._update_if(self._window.fills, present, others)

    def begin_batch(self):
        self._window.begin_batch()

    def finish_window(self):
        """Deals with a window that is not full as `last_window` says; outside of a step.

        `keras_cool.callbacks.FinishWindow` calls it at the end of each epoch.
        """
        if not self.built:
            return
        self.begin_batch()
        if self.last_window == "carry" or not int(self.batches.numpy()):
            return
        if self.last_window == "update":
            for call in self._window.calls():
                self._finish_call(call)
        self._window.end()

    @contextlib.contextmanager
    def counting(self, batch):
        replica = backend.updates.replica()
        outer = self._present.batches.get(replica)
        self._present.batches[replica] = batch
        try:
            yield
        finally:
            self._present.batches[replica] = outer

    def share(self):
        return 1.0 / ops.cast(self._now(), measured_dtype())

    @property
    def batches(self):
        """The variable that counts the batches of the window that is being filled."""
        return self._window.batches

    @property
    def present_batch(self):
        """The `Batch` whose gradients `apply` is being given on this replica."""
        return self._present.batches.get(backend.updates.replica()) or ONE_OF_MANY

    @property
    def window_is_full(self):
        """Whether the step has filled a window, at the end of it: a scalar boolean tensor."""
        return self._window.is_complete

    def window_gradients(self):
        """The mean gradients over the window that the last step has filled.

        Returns:
            List of tensors, zeros where none reached a variable.
        """
        factors, reached = ops.unstack(self._window.factors()), ops.unstack(self._window.reached)
        return [
            _zero_unless(r, a.value * ops.cast(f, a.dtype))
            for a, f, r in zip(self._accumulators, factors, reached, strict=True)
        ]

    def step_logs(self):
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

    def _now(self):
        """The number of batches of the present window, a scalar integer."""
        if self._schedule is None:
            return self._steps.value
        steps = ops.convert_to_tensor(self._schedule(self.iterations.value))
        return ops.maximum(ops.cast(ops.round(ops.cast(steps, "float32")), "int32"), 1)

    def _window_variable(self, name, shape, dtype):
        return self.add_variable(
            shape=shape, dtype=dtype, aggregation="only_first_replica", name=f"window_{name}"
        )

    def _places(self, variables):
        return [variable_index(self, v) for v in variables]

    def _mask(self, variables):
        mask = np.zeros(len(self._accumulators), bool)
        mask[self._places(variables)] = True
        return mask

    def _check_gradients(self, present, given):
        reached = {id(v) for v in present}
        missing = [v.path for v in given if id(v) not in reached]
        if not present:
            raise ValueError(
                "No gradients provided for any variable: the loss depends on none of "
                f"{missing}. Compute it from the model's output."
            )
        if missing:
            warnings.warn(
                f"Gradients do not exist for variables {missing} when minimizing the loss. They "
                "stay as they are in a window none of whose batches reaches them.",
                stacklevel=3,
            )

    def _without_non_finite(self, weight, gradients):
        gradients = [ops.convert_to_tensor(g) for g in gradients]  # sparse ones too
        finite = backend.updates.all_finite(gradients)
        self.skipped_batches.assign_add(ops.cast(ops.logical_not(finite), "int32"))
        weight = _zero_unless(finite, ops.cast(weight, measured_dtype()))
        return weight, [_zero_unless(finite, g) for g in gradients], finite

    def _finish_call(self, call):
        """Updates the variables of one call with what the window holds of them."""
        reached = backend.updates.known_values(self._window.reached)
        variables = trainable_variables_of(self)
        present = [
            v for v, c, r in zip(variables, call, reached, strict=True) if c and r and v.trainable
        ]
        if present:
            full = ops.convert_to_tensor(True)
            backend.updates.on_all_replicas(
                self.batches, lambda: self._update_if(full, present, [])
            )

    def _update_if(self, full, present, perhaps):
        """Takes the step with the means over the window, if that is `full`, and they are finite.

        Args:
            full: Scalar boolean tensor.
            present: List of the variables that the window has reached.
            perhaps: List of those that it may have reached, with the present batch or without.
        """
        reached = self._window.reached
        known = backend.updates.known_values(self._window.is_of_step()) if perhaps else None
        if known is not None:
            present = [*present, *(v for v in perhaps if known[variable_index(self, v)])]
            perhaps = []
        is_of_step = ops.unstack(self._window.is_of_step()) if perhaps else []
        perhaps = [(v, is_of_step[variable_index(self, v)]) for v in perhaps]

        def sums():
            accumulators = [self._accumulators[i].value for i in self._places(present)]
            return accumulators + [
                _zero_unless(known, self._accumulators[variable_index(self, v)].value)
                for v, known in perhaps
            ]

        if self.non_finite == "skip_batch":  # of a window whose batches were all left out
            some = ops.any(ops.logical_and(reached, self._mask(present + [v for v, _ in perhaps])))
            ready = backend.updates.all_finite_if(ops.logical_and(full, some), sums)
        else:
            ready = backend.updates.all_finite_if(full, sums)

        def update():
            variables = [*present, *(v for v, _ in perhaps)]
            factors = ops.unstack(self._window.factors() / backend.updates.number_of_replicas())
            means = [
                ops.cast(total * ops.cast(factors[i], total.dtype), v.dtype)
                for v, i, total in zip(variables, self._places(variables), sums(), strict=True)
            ]
            untouched = [Untouched(self.inner_optimizer, v, known) for v, known in perhaps]
            self._apply_inner(means, variables)
            for variable in untouched:
                variable.put_back()

        backend.updates.apply_if(ready, update)
        skipped = ops.logical_and(full, ops.logical_not(ready))
        self.skipped_steps.assign_add(ops.cast(skipped, "int32"))

    def _apply_inner(self, gradients, variables):
        if holds_several(self.inner_optimizer):  # wants all of them
            given = {id(v): g for v, g in zip(variables, gradients, strict=True)}
            variables = trainable_variables_of(self)
            gradients = [given.get(id(v)) for v in variables]
        self.inner_optimizer.apply(gradients, variables)


def _zero_unless(condition, tensor):
    return ops.where(condition, tensor, ops.zeros_like(tensor))
