"""`StepState`: all that a training step changes, kept on the host while the step may fail."""

from keras_cool import backend
from keras_cool.optimizer_roles import optimizers_of
from keras_cool.training.random_generators import RandomGenerators
from keras_cool.training.step import SingleGradient


class StepState:
    """The state of a model before a step, outside of it: every variable, and random generators.

    It takes no memory of the device beside the model's own.

    Args:
        model: A Keras model with the mixin, built.
    """

    def __init__(self, model):
        self._variables = [*variables_of(model), *_of_callbacks(model)]
        copies = (copy for v in self._variables for copy in backend.snapshots.copies([v]))
        self._bytes = [backend.snapshots.as_bytes(copy) for copy in copies]
        self._generators = RandomGenerators()

    def put_back(self):
        """Assigns to every variable the value that it had. It may be called again."""
        backend.snapshots.assign_copies(self._variables, self._bytes)
        self._generators.put_back()


def variables_of(model):
    """All variables that training changes, each once, and on PyTorch the buffers."""
    # What counts the steps of a model with micro-batches is no optimizer of it.
    counters = [v for v in vars(model).values() if isinstance(v, SingleGradient)]
    holders = [model, *optimizers_of(model), *counters]
    variables = [v for holder in holders for v in holder.variables]
    variables += model.metrics_variables
    return [*{id(v): v for v in variables}.values(), *backend.snapshots.further_state(model)]


def _of_callbacks(model):
    return [v for c in model.step_hooks.callbacks for v in c.step_variables]
