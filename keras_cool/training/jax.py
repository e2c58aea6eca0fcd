"""JAX: a stateless `train_step` around the common one."""

import contextlib

from keras_cool.keras_private import OverlayScope
from keras_cool.optimizers_of import optimizers_of


class BackendStep:
    """Opens a scope over the whole state and runs the step that the other backends run directly."""

    @property
    def non_trainable_variables(self):
        """The model's, those of each further optimizer that it holds (as a GAN does), the count of
        its soft batches, and those of the callbacks that act inside the step: what a compiled step
        changes has to be part of its state."""
        own = getattr(self, "optimizer", None)
        holders = [o for o in optimizers_of(self) if o is not own]
        if self._microbatches is not None:
            holders.append(self._microbatches)
        further = [v for holder in holders for v in holder.variables]
        further += [v for c in self.step_callbacks for v in c.step_variables]
        # An optimizer and one around it have variables in common, and a step gives each back once.
        of_own = {id(v) for v in own.variables} if own else set()
        further = [v for v in {id(v): v for v in further}.values() if id(v) not in of_own]
        return [*super().non_trainable_variables, *further]

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
