"""`OptimizerWrapper`: base of the optimizers that let an ordinary Keras optimizer take the step."""

import inspect
import zlib

import keras

from keras_cool.keras_private import variable_index, variable_layout
from keras_cool.optimizer_roles import check_built_on
from keras_cool.saved_seeds import SavedSeeds


def _inner_setting(name, description):
    """Makes a property that reads and writes through to the inner optimizer."""

    def read(self):
        return getattr(self.inner_optimizer, name)

    def write(self, value):
        if hasattr(self, "inner_optimizer"):  # the base class' `__init__` sets its own, unused
            setattr(self.inner_optimizer, name, value)

    return property(read, write, doc=description)


class OptimizerWrapper(keras.optimizers.Optimizer):
    """An optimizer around an inner one, which applies the updates.

    Clipping, weight decay, moving averages of the weights and constraints are the inner
    optimizer's; `learning_rate`, `iterations` and the like read and write through to it.

    Args:
        optimizer: The Keras optimizer that applies the update.
        name: String or `None`. The name of the optimizer. Defaults to the class's name in snake
            case.
    """

    def __new__(cls, *args, **kwargs):
        _check_first_argument(cls, args, kwargs)
        return super().__new__(cls)

    def __init__(self, optimizer, name=None):
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = optimizer
        self._seeds = SavedSeeds()

    def build(self, variables):
        """Makes the variables of the inner optimizer.

        Raises:
            ValueError: If the inner optimizer was built on other variables before.
        """
        self.check_variables(variables)
        super().build(variables)
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)

    def check_variables(self, variables):
        """Raises a `ValueError` if there are variables that the optimizer has no state for.

        Args:
            variables: List of the `keras.Variable`s to train.
        """
        check_built_on(self, variables)

    def save_seeds_of(self, model):
        """Saves the random seeds of `model` with this optimizer from now on.

        Keras saves no seeds, so that a model with dropout would start again from the first mask;
        seeds that were loaded before the model was known go into the model now.

        Args:
            model: The Keras model that is trained.
        """
        self._seeds.attach(model)

    def save_own_variables(self, store):
        """Saves the optimizer's variables and the model's random seeds."""
        super().save_own_variables(store)
        self._seeds.save(store)

    def load_own_variables(self, store):
        """Loads the optimizer's variables and the model's random seeds."""
        super().load_own_variables(self._seeds.load(store))

    @property
    def variables(self):
        """The method's own variables and the inner optimizer's."""
        return [*super().variables, *self.inner_optimizer.variables]

    @property
    def learning_rate(self):
        """The inner optimizer's learning rate."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        """The number of steps that the inner optimizer has taken."""
        return self.inner_optimizer.iterations

    weight_decay = _inner_setting("weight_decay", "The inner optimizer's weight decay.")
    clipnorm = _inner_setting("clipnorm", "The inner optimizer's bound on each gradient's norm.")
    clipvalue = _inner_setting("clipvalue", "The inner optimizer's bound on gradient values.")
    global_clipnorm = _inner_setting(
        "global_clipnorm", "The inner optimizer's bound on the norm of all gradients."
    )

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Excludes variables from the inner optimizer's weight decay.

        Args:
            var_list: List of `keras.Variable`s, or `None`.
            var_names: List of strings, or `None`: variables whose names hold one of them.
        """
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def scale_loss(self, loss):
        """Scales a loss as the inner optimizer does."""
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        """Ends training as the inner optimizer does (weights from their moving average)."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        """The configuration: the name and the inner optimizer."""
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the optimizer that `get_config` describes."""
        inner = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects)
        return cls(**{**config, "optimizer": inner})

    def _slots(self, variables, name):
        """Makes a variable for each of those to train, of its shape, dtype and layout: zeros."""
        return [
            self.add_variable(
                shape=v.shape,
                initializer="zeros",
                dtype=v.dtype,
                aggregation="only_first_replica",
                layout=variable_layout(v),
                name=f"{v.path.replace('/', '_')}_{name}",
            )
            for v in variables
        ]

    def _slots_of(self, slots, variables):
        """Those of the slots that are for `variables`."""
        return [slots[variable_index(self, v)] for v in variables]

    def _counter(self, name):
        return self.add_variable(
            shape=(), dtype="int32", aggregation="only_first_replica", name=name
        )


def code_of_variables(optimizer, variables):
    """Returns a whole number that tells these of the variables of an optimizer from others."""
    places = [variable_index(optimizer, v) for v in variables]
    return zlib.crc32(repr(places).encode()) % 2**31


def _check_first_argument(cls, args, kwargs):
    """Raises a `TypeError` for Keras' own name of the argument, and where it is missing."""
    parameters = inspect.signature(cls.__init__).parameters
    if "optimizer" not in parameters:  # as of L-BFGS, which takes the step itself
        if "learning_rate" in kwargs:
            raise TypeError(
                f"{cls.__name__} has no learning rate: {cls.LENGTH}. Make it without that "
                f"argument: {cls.__name__}()."
            )
        return
    is_given = bool(args) or "optimizer" in kwargs
    missing = not is_given and parameters["optimizer"].default is inspect.Parameter.empty
    renamed = "learning_rate" in kwargs and "learning_rate" not in parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if missing or (renamed and not takes_any):
        others = "".join(f", {key}={value!r}" for key, value in kwargs.items() if key in parameters)
        rate = kwargs.get("learning_rate", 0.1)
        raise TypeError(
            f"The first argument of {cls.__name__} is the inner optimizer: a learning rate, a "
            "schedule, the name of a Keras optimizer or a Keras optimizer, without a keyword. "
            f"For example: {cls.__name__}({rate!r}{others}), "
            f"{cls.__name__}(keras.optimizers.Adam({rate!r}){others})."
        )
