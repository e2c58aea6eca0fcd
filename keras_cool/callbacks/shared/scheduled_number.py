"""`ScheduledNumber`: stands in a compiled step for an attribute that Keras takes for a number."""

import keras

# What the code that a step is compiled from may ask in Python, as `if self.rate > 0` does: it is
# answered for any number between the two, which has the code for the general case compiled.
_ANSWERED = (0, 1)


class ScheduledNumber(keras.Variable):
    """A scalar variable that answers comparisons in Python as a number between 0 and 1 does.

    Args:
        description: String, the attribute, for errors.
        value: Float, the first value.
        dtype_in_step: String, the dtype that its value has in a step, or `None`: floatx, and what
            mixed precision makes of that.
    """

    def __init__(self, description, value, dtype_in_step=None):
        self._description = description
        self._dtype_in_step = dtype_in_step
        self.held = None  # its value in a step, for who does not count as reading it
        self.is_read = False
        super().__init__(
            float(value),
            shape=(),
            dtype=keras.config.floatx(),
            trainable=False,
            aggregation="only_first_replica",
            name="scheduled_number",
        )

    def hold(self):
        """Takes the value for the rest of the step.

        Keras' own scopes, as in the apply of a `LossScaleOptimizer` on JAX, do not look further out
        for variables that they do not know.
        """
        self.held = super().value

    def let_go(self):
        """Ends what `hold` began."""
        self.held = None

    @property
    def value(self):
        if self.held is None:
            return super().value
        self.is_read = True
        if self._dtype_in_step is not None:
            return keras.ops.cast(self.held, self._dtype_in_step)
        return self._maybe_autocast(self.held)

    @property
    def dtype(self):
        # In a step that of the backend: TensorFlow's dropout compares it.
        return super().dtype if self.held is None else self.value.dtype

    def get_shape(self):
        """The shape; TensorFlow's dropout asks for it in this way."""
        return self.shape

    def _answer(self, other, answer):
        if other not in _ANSWERED:
            raise TypeError(
                f"{self._description} is compared with {other!r} in Python while the step is "
                "compiled, so that the answer would be the same for all values it is to have. It "
                "cannot be scheduled; use a `keras.Variable` and `keras.ops.where` there."
            )
        self.is_read = True
        return answer

    def __gt__(self, other):
        return self._answer(other, other < 1)

    def __ge__(self, other):
        return self._answer(other, other < 1)

    def __lt__(self, other):
        return self._answer(other, other > 0)

    def __le__(self, other):
        return self._answer(other, other > 0)

    def __eq__(self, other):
        return self is other or (other is not None and self._answer(other, False))

    def __ne__(self, other):
        return not self == other

    def __bool__(self):
        return self._answer(0, True)

    __hash__ = keras.Variable.__hash__
