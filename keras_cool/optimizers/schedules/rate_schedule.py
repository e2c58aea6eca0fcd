"""`RateSchedule`: base class of the learning-rate schedules."""

from keras.optimizers.schedules import LearningRateSchedule


class RateSchedule(LearningRateSchedule):
    """A learning-rate schedule whose error says where it belongs if it is given as a callback."""

    def __getattr__(self, name):
        # Keras reads these attributes of every callback; which it reads first varies.
        if name.startswith(("on_", "set_model", "set_params")):
            kind = type(self).__name__
            raise TypeError(
                f"{kind} is a learning-rate schedule, not a callback. Remove it from `callbacks` "
                f"and give it to the optimizer: model.compile(keras.optimizers.Adam({kind}(...)), "
                "...)."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
