"""The learning rates of a model's optimizers, constants and schedules, and its updates."""

import keras

from keras_cool import backend
from keras_cool.keras_private import learning_rate_schedule, velocities
from keras_cool.optimizer_roles import chain, has_learning_rate, optimizers_of, with_learning_rates


@keras.saving.register_keras_serializable(package="keras_cool")
class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a factor.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`.
        factor: Float.
    """

    def __init__(self, schedule, factor):
        self.schedule = schedule
        self.factor = float(factor)

    def __call__(self, step):
        return self.schedule(step) * self.factor

    def get_config(self):
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "factor": self.factor,
        }

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["factor"])


def rated_optimizers(model):
    """Lists the optimizers of a model that have a learning rate, in all its parts."""
    return [o for optimizer in optimizers_of(model) for o in with_learning_rates(optimizer)]


def checked_rates(optimizers, callback):
    """Raises a `ValueError` if there is no learning rate, or it is a function, which has no value
    to change."""
    for optimizer in optimizers:
        if not has_learning_rate(optimizer):
            raise ValueError(
                f"{type(callback).__name__} changes the learning rate, and "
                f"{type(optimizer).__name__} has none. Train without the callback."
            )
        schedule = learning_rate_schedule(optimizer)
        if schedule is None or _is_schedule(schedule):
            continue
        raise ValueError(
            f"{type(callback).__name__} changes the learning rate, and that of "
            f"{type(optimizer).__name__} is the function {schedule!r}. Give the optimizer a number "
            "or a LearningRateSchedule, for example keras.optimizers.SGD(0.1)."
        )


def rates_of(model):
    """The present learning rates, floats, one for each optimizer."""
    return [float(keras.ops.convert_to_numpy(o.learning_rate)) for o in rated_optimizers(model)]


def updates_of(model):
    """The number of updates that the model's optimizer has made."""
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def set_schedule(model, optimizer, schedule):
    """Sets the schedule of an optimizer, and compiles the model's training function with it."""
    optimizer.learning_rate = schedule
    model.make_train_function(force=True)  # the one before has its own schedule compiled in


def schedule_factor(model):
    """What the schedules of the model's optimizers are multiplied by: 1 for those of the user."""
    schedules = [learning_rate_schedule(o) for o in rated_optimizers(model)]
    return next((s.factor for s in schedules if isinstance(s, ScaledSchedule)), 1.0)


def scale_schedules(model, factor):
    """Multiplies the user's schedules by `factor`, in place of any factor from before."""
    for optimizer in rated_optimizers(model):
        schedule = learning_rate_schedule(optimizer)
        if schedule is None:
            continue
        present = 1.0
        if isinstance(schedule, ScaledSchedule):
            schedule, present = schedule.schedule, schedule.factor
        if present != factor:
            set_schedule(model, optimizer, ScaledSchedule(schedule, factor))


def scale_velocities(optimizer, factor):
    """Multiplies what an optimizer keeps of its last steps by `factor`.

    The momentum of Keras' SGD and RMSprop is a sum of steps, with the learning rates that they were
    taken with: after the rate was lowered it would go on at the old one.
    """
    variables = velocities(chain(optimizer)[-1])
    backend.snapshots.assign_copies(
        variables, [factor * value for value in backend.snapshots.copies(variables)]
    )


def _is_schedule(rate):
    return isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
