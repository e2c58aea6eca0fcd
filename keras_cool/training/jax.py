"""JAX: a stateless `train_step` around the common one, and updates that stay in the state."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import keras

from keras_cool.keras_private import OverlayScope, trainable_variables_of


class BackendStep:
    """Opens a scope over the whole state and runs the step that the other backends run directly."""

    @property
    def non_trainable_variables(self):
        """The model's, and the variables of each further optimizer that it holds (as a GAN does):
        what a compiled step changes has to be part of its state."""
        own = getattr(self, "optimizer", None)
        further = [
            value
            for value in vars(self).values()
            if isinstance(value, keras.optimizers.Optimizer) and value is not own
        ]
        return [*super().non_trainable_variables, *(v for o in further for v in o.variables)]

    def make_train_function(self, force=False):
        """Makes the training function, one that gives the model its state back when it fails.

        Keras takes the values out of the variables before the first step, to save memory; an error
        in that step, a wrong shape say, would lose them.
        """
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = self._keeping_state(self.train_function)

    def _keeping_state(self, train_function):
        groups = []

        def keeping_state(state, iterator):
            if not groups:  # once, before a step that fails can add to them
                groups.extend(self._state_variables())
            try:
                return train_function(state, iterator)
            except StopIteration:
                raise
            except BaseException:
                for variables, values in zip(groups, state, strict=True):
                    for variable, value in zip(variables, values, strict=True):
                        if not value.is_deleted():
                            variable.assign(value)
                raise

        return keeping_state

    def _state_variables(self):
        return (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )

    def train_step(self, state, data):
        if self.takes_plain_step():
            return super().train_step(state, data)
        groups = self._state_variables()
        mapping = [
            pair
            for variables, values in zip(groups, state, strict=True)
            for pair in zip(variables, values, strict=True)
        ]
        with OverlayScope(mapping) as scope:
            logs = self.run_step(data)
        _check_assigned(scope, groups)
        return logs, tuple([scope.get_current_value(v) for v in variables] for variables in groups)


def _check_assigned(scope, groups):
    known = {id(variable) for variables in groups for variable in variables}
    strays = [variable.path for variable, _ in scope.updates if id(variable) not in known]
    if strays:
        raise ValueError(
            f"The training step assigns to variables that are not part of the model: {strays}. On "
            "JAX their new values would be lost. Make them, or the metric, layer or optimizer that "
            "holds them, attributes of the model before `compile`; build an optimizer on its "
            "variables before `fit`."
        )


class SameRandomNumbers(contextlib.nullcontext):
    """Nothing to do: all random numbers come from seeds that Keras' variables hold."""


def apply(optimizer, gradients, variables):
    """Lets the optimizer update the variables."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        _apply_stateless(optimizer, gradients, variables)
    else:
        optimizer.apply(gradients, variables)


def _apply_stateless(optimizer, gradients, variables):
    # Its `apply` assigns inside a `cond`, from which only returned values may leave.
    all_variables = trainable_variables_of(optimizer)
    given = {id(v): g for v, g in zip(variables, gradients, strict=True)}
    with warnings.catch_warnings():
        if len(all_variables) != len(variables):  # the others are meant to have no gradient
            warnings.filterwarnings("ignore", message="Gradients do not exist")
        new_variables, new_state = optimizer.stateless_apply(
            [v.value for v in optimizer.variables],
            [given.get(id(v)) for v in all_variables],
            [v.value for v in all_variables],
        )
    for variable, value in zip(
        [*all_variables, *optimizer.variables], [*new_variables, *new_state], strict=True
    ):
        variable.assign(value)


def apply_if(condition, update, *values):
    """Runs `update(*values)` if the scalar `condition` is true.

    It is one `cond` over what the update assigns. A select of every value would fuse with it, and
    yet cost more: XLA then holds old and new state at once.
    """
    variables = _assigned_by(update, values)

    def taken(state, values):
        with OverlayScope(zip(variables, state, strict=True)) as scope:
            update(*values)
        return [scope.get_current_value(v) for v in variables]

    def skipped(state, values):
        return state

    state = jax.lax.cond(condition, taken, skipped, [v.value for v in variables], values)
    for variable, value in zip(variables, state, strict=True):
        variable.assign(value)


def _assigned_by(update, values):
    """The variables that `update(*values)` assigns, found without computing it."""
    variables = []

    def trace(values):
        with OverlayScope() as scope:
            update(*values)
        variables[:] = [variable for variable, _ in scope.updates]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the update itself is going to give them
        jax.eval_shape(trace, values)
    return variables


def all_finite(tensors):
    """Whether every entry of every tensor is finite, as a scalar boolean tensor."""
    return jnp.stack([jnp.all(jnp.isfinite(t)) for t in tensors]).all()


def while_loop(cond, body, loop_vars):
    """`keras.ops.while_loop`."""
    return keras.ops.while_loop(cond, body, loop_vars)


def number_of_replicas():
    """One: under `keras.distribution` a JAX step computes on the whole batch."""
    return 1


def sum_over_replicas(loss, gradients):
    """Nothing to do: the compiler puts the reductions in."""
    return loss, gradients
