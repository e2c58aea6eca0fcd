"""JAX: a stateless `train_step` around the common one."""

import contextlib

from keras_cool.backend.jax import memory
from keras_cool.backend.jax.planned_step import PlannedStep
from keras_cool.keras_private import ModelBase, OverlayScope
from keras_cool.optimizer_roles import optimizers_of

_STATE = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


class _Groups:
    """The variables that a loop has taken the values out of, and those that functions know by their
    places. Keras would track plain lists."""

    def __init__(self):
        self.names = []
        self.of_state = []
        self._trainable = {}

    def are_not_those_of(self, function, model):
        """Whether a function was compiled with other trainable variables than the model has now;
        they are noted."""
        now = [id(v) for v in model.trainable_variables] if model.built else None
        before = self._trainable.get(function)
        self._trainable[function] = now
        return before is not None and before != now


class BackendStep(ModelBase):
    """Opens a scope over the whole state and runs the step that the other backends run directly."""

    @property
    def _groups(self):
        if "_groups_of_state" not in self.__dict__:
            self.__dict__["_groups_of_state"] = _Groups()  # past Keras, which would track it
        return self.__dict__["_groups_of_state"]

    @property
    def non_trainable_variables(self):
        """The model's, those of each further optimizer that it holds (as a GAN does), the count of
        its soft batches, and those of the callbacks that act inside the step: what a compiled step
        changes has to be part of its state."""
        own = getattr(self, "optimizer", None)
        holders = [o for o in optimizers_of(self) if o is not own]
        if self._single_gradient is not None:
            holders.append(self._single_gradient)
        further = [v for holder in holders for v in holder.variables]
        further += [v for c in self.step_hooks.callbacks for v in c.step_variables]
        # An optimizer and one around it have variables in common, and a step gives each back once.
        of_own = {id(v) for v in own.variables} if own else set()
        further = [v for v in {id(v): v for v in further}.values() if id(v) not in of_own]
        return [*super().non_trainable_variables, *further]

    def make_train_function(self, force=False):
        """Makes the training function, one that gives the model its state back when it fails.

        Keras takes the values out of the variables before the first step, to save memory; an error
        in that step, a wrong shape say, would lose them. What was compiled with other trainable
        variables is compiled anew: it knows them by their places.
        """
        self._make("train_function", super().make_train_function, force)

    def make_test_function(self, force=False):
        """Makes the function that evaluates, as `make_train_function` that of training."""
        self._make("test_function", super().make_test_function, force)

    def make_predict_function(self, force=False):
        """Makes the function that predicts, as `make_train_function` that of training."""
        self._make("predict_function", super().make_predict_function, force)
        return self.predict_function

    def _make(self, name, make, force):
        force = self._groups.are_not_those_of(name, self) or force
        if getattr(self, name) is None or force:
            make(force)
            setattr(self, name, self._keeping_state(getattr(self, name)))

    def _make_function(self, step_function, **kwargs):
        # Keras makes the functions that train, evaluate and predict of a step each.
        if getattr(step_function, "__wrapped__", step_function) == self.train_step:
            step_function = self._finding_the_size(step_function)
        return super()._make_function(step_function, **kwargs)

    def _finding_the_size(self, step):
        """The step of training, with the largest micro-batches that fit if it is to find them."""
        automatic = self._automatic_size
        if automatic is None:
            return step
        if step != self.train_step:
            return PlannedStep(step, automatic, self._put_back_state)
        if automatic.memory_limit is not None:
            memory.measured(step, 0)  # says that it cannot

        def eager_step(state, data):  # which has no side effects
            def attempt():
                return memory.finished(step(state, data))

            return automatic.settle(data, attempt, lambda: None)

        return eager_step

    def _put_back_state(self, state):
        _put_back(self._groups.of_state, state)

    def _keeping_state(self, function):
        def keeping_state(state, iterator):
            try:
                return function(state, iterator)
            except StopIteration:
                raise
            except BaseException:
                _put_back(self._groups.of_state, state)
                self._jax_state_synced = True  # an earlier state is not to take its place
                raise

        return keeping_state

    def _get_jax_state(self, **parts):
        # A callback may change what is trainable before the values come back.
        names = [name for name in _STATE if parts.get(name)]
        holders = {"optimizer_variables": lambda: self.optimizer.variables}
        self._groups.of_state = [
            list(holders[name]() if name in holders else getattr(self, name)) for name in names
        ]
        self._groups.names = names
        return super()._get_jax_state(**parts)

    def jax_state_sync(self):
        """Assigns to the variables the values that a loop of training, evaluation or prediction
        holds: to those that they were taken from, whatever is trainable by now."""
        state = getattr(self, "_jax_state", None)
        if not state or getattr(self, "_jax_state_synced", False):
            return
        _put_back(self._groups.of_state, [state[name] for name in self._groups.names])
        self._jax_state_synced = True

    def _state_variables(self):
        return (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )

    def recording_nothing(self):
        """The context of a step, in which no operation is recorded but for an evaluation."""
        return contextlib.nullcontext()

    def scope_of_variables(self):
        """The context in which variables are made on all devices of the model: any."""
        return contextlib.nullcontext()

    def reading_state(self, state, data):
        """The context in which variables have their values in `test_step(state, data)`, and in
        `predict_step`."""
        return OverlayScope(zip(self.non_trainable_variables, state[1], strict=True))

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


def _put_back(groups, state):
    for variables, values in zip(groups, state, strict=True):
        for variable, value in zip(variables, values, strict=True):
            if not value.is_deleted():
                variable.assign(value)


def _check_assigned(scope, groups):
    known = {id(variable) for variables in groups for variable in variables}
    strays = [variable.path for variable, _ in scope.updates if id(variable) not in known]
    if any("rnn_state" in path for path in strays):
        raise ValueError(
            f"The model has a stateful RNN, whose state {strays} Keras does not count among the "
            "variables of the layer: on JAX it is lost after every step, with any Keras model. "
            "Make the layer with stateful=False, or train on another backend."
        )
    if strays:
        raise ValueError(
            f"The training step assigns to variables that are not part of the model: {strays}. On "
            "JAX their new values would be lost. Make them, or the metric, layer or optimizer that "
            "holds them, attributes of the model before `compile`; build an optimizer on its "
            "variables before `fit`."
        )
