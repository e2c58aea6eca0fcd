"""`GradientNoiseScale`: how large a batch is worth having, from the micro-batches of a soft one."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cool import backend
from keras_cool.callbacks.shared.frequency import checked_frequency
from keras_cool.callbacks.shared.squared_norm import (
    squared_norm,
    squared_norm_if,
    squared_norm_of_part_if,
)
from keras_cool.callbacks.shared.step_callback import StepCallback
from keras_cool.float64 import measured_dtype
from keras_cool.optimizer_roles import accumulator


class GradientNoiseScale(StepCallback):
    r"""Measures the simple noise scale, the batch size from which on a larger one helps little.

    For the gradient \(G\) of the loss of all data and the covariance \(\Sigma\) of the gradients
    of single samples,

    \[ B_\text{simple} = \frac{\operatorname{tr} \Sigma}{|G|^2}. \]

    Well below it, a batch twice as large makes as good a step as two; well above it, the samples
    more are wasted. Both are estimated without bias from what a soft batch computes anyway: for a
    batch of \(B\) samples in \(k\) parts with the shares \(s_j\) and the gradients \(g_j\), whose
    mean is \(\bar g\),

    \[ \operatorname{tr} \Sigma \approx \frac{B}{k - 1} \Big(\sum_j s_j |g_j|^2 - |\bar g|^2\Big),
       \qquad |G|^2 \approx |\bar g|^2 - \frac{\operatorname{tr} \Sigma}{B}. \]

    The logs of an epoch have the ratio of their means over the epoch, `gradient_noise_scale`, in
    samples, and its standard error by the delta method, `gradient_noise_scale_error`. A scale of
    infinity says that the gradient cannot be told from the noise: measure more often, or longer. It
    is not a number in an epoch without a measurement.

    The parts are the micro-batches of a model that was compiled with `microbatch_size`, or the
    batches of a window of `keras_cool.optimizers.Accumulate` on a model with
    `keras_cool.MultiGradientMixin`. In a `multi_gradient_step` of your own they are those of the
    first `self.value_and_grad(..., batch=...)`, or what `self.apply_gradients` is given.

    On JAX under `keras.distribution` a micro-batch has `microbatch_size` samples of each device.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> inputs = keras.Input((4,))
    >>> model = kc.Model(inputs, keras.layers.Dense(1)(inputs))
    >>> model.compile("adam", loss="mse", microbatch_size=8)
    >>> x, y = keras.random.normal((320, 4)), keras.random.normal((320, 1))
    >>> noise = kc.callbacks.GradientNoiseScale(frequency=1)
    >>> history = model.fit(x, y, batch_size=32, callbacks=[noise], verbose=0)
    >>> history.history["gradient_noise_scale"][-1] > 0
    True

    Args:
        frequency: Integer, how many updates lie from one measurement to the next. A measurement
            reads the gradients of each part once more. Defaults to 10.

    Raises:
        ValueError: If `frequency` is not a positive integer, the model computes its batches at
            once, or no batch of the first epoch had two parts to compare.

    Reference:
        McCandlish, Kaplan, Amodei and the OpenAI Dota Team, 2018, "An empirical model of
        large-batch training", section 2.2 and appendix A.1.
    """

    def __init__(self, frequency=10):
        super().__init__()
        self._frequency = checked_frequency(frequency, self, epochs_allowed=False)
        self._accumulate: Any = None
        self._epochs: dict[str, list] = {"epoch": [], "noise_scale": [], "error": []}

    @property
    def noise_scale(self):
        """The noise scale of the last epoch, in samples; `None` before the first."""
        return self._epochs["noise_scale"][-1] if self._epochs["noise_scale"] else None

    def data(self):
        """Returns arrays with a value an epoch: `epoch`, `noise_scale`, `error`."""
        return {name: np.array(values) for name, values in self._epochs.items()}

    @property
    def step_variables(self):
        return [self._updates, self._moments, self._window]

    def make_step_variables(self):
        self._updates = _variable("updates", dtype="int32")
        # Measurements; means of tr S and of |G|^2; sums of squared deviations, of products.
        self._moments = _variable("moments", (6,), measured_dtype())
        # The sums of w |g|^2, of w, of the samples and of the batches of a window.
        self._window = _variable("window", (4,), measured_dtype())

    def set_model(self, model):
        """Takes up the model; Keras calls it before training."""
        self._accumulate = accumulator(model.optimizer)
        if self._accumulate is None and not getattr(model, "microbatch_size", None):
            raise ValueError(
                "GradientNoiseScale compares the parts of a soft batch, and this model computes "
                "its batches at once. Compile it with parts, on a model with the mixin: "
                "model.compile('adam', loss='mse', microbatch_size=16) with a larger batch in "
                "`fit`, or with keras_cool.optimizers.Accumulate('adam', 4)."
            )
        self.observes_microbatches = self._accumulate is None
        self.observes_gradients = not self.observes_microbatches
        self._epochs = {name: [] for name in self._epochs}
        super().set_model(model)
        for variable in self.step_variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))

    def on_epoch_begin(self, epoch, logs=None):
        self._moments.assign(np.zeros(6, self._moments.dtype))

    def on_epoch_end(self, epoch, logs=None):
        if not self._epochs["epoch"] and not float(self._moments.numpy()[0]):
            raise ValueError(
                "GradientNoiseScale measured nothing: no batch of the epoch had two parts. Give "
                "larger batches in `fit` than the model's `microbatch_size`, or let Accumulate "
                "have two steps at least."
            )
        scale, error = noise_scale(self._moments.numpy().astype("float64"))
        for name, value in zip(self._epochs, (epoch, scale, error), strict=True):
            self._epochs[name].append(value)
        if logs is not None:
            logs["gradient_noise_scale"] = scale
            logs["gradient_noise_scale_error"] = error

    def measure_microbatch(self, gradients, share):
        return squared_norm_of_part_if(self._is_due(), gradients) / ops.cast(
            share, measured_dtype()
        )

    def observe_microbatches(self, measured, parts, samples, gradients):
        due = ops.logical_and(self._is_due(), parts > 1)
        self._measure_if(due, measured, parts, samples, gradients)
        self._updates.assign_add(1)

    def observe_gradients(self, gradients):
        accumulate = self._accumulate
        replicas = backend.updates.number_of_replicas()
        weight = ops.cast(accumulate.present_batch.weight, measured_dtype()) * replicas
        samples = ops.cast(accumulate.present_batch.samples, measured_dtype()) * replicas
        squared = squared_norm_if(self._is_due(), gradients)
        batch = ops.stack([weight * squared, weight, samples, ops.ones((), measured_dtype())])
        begins = ops.cast(
            accumulate.window_is_full, measured_dtype()
        )  # the window before, at its end
        self._window.assign((1 - begins) * self._window.value + batch)

    def end_step(self):
        if self._accumulate is None:
            return
        full = self._accumulate.window_is_full
        measured, weight, samples, parts = ops.unstack(self._window.value, 4)
        due = ops.logical_and(ops.logical_and(self._is_due(), full), parts > 1)
        gradients = self._accumulate.window_gradients
        mean = ops.divide_no_nan(measured, weight)
        self._measure_if(due, mean, parts, samples, gradients)
        self._updates.assign_add(ops.cast(full, "int32"))

    def _is_due(self):
        return self._updates.value % self._frequency == 0

    def _measure_if(self, due, measured, parts, samples, gradients):
        dtype = measured_dtype()
        size, count = ops.cast(samples, dtype), ops.cast(parts, dtype)

        def measure():
            mean = squared_norm(gradients() if callable(gradients) else gradients)
            trace = (ops.cast(measured, dtype) - mean) * size / (count - 1)
            return with_measurement(moments, trace, mean - trace / size)

        moments = self._moments.value
        new = ops.cond(due, measure, lambda: moments + 0)
        self._moments.assign(ops.where(ops.all(ops.isfinite(new)), new, moments))


def _variable(name, shape=(), dtype="float32"):
    return keras.Variable(
        np.zeros(shape, dtype),
        dtype=dtype,
        trainable=False,
        aggregation="only_first_replica",
        name=name,
    )


def with_measurement(moments, trace, square):
    """Returns the moments with one measurement added (Welford's update).

    Args:
        moments: Tensor of shape `(6,)`: the number of measurements, the means of both quantities,
            and the sums of the squared deviations of the first, of the second, and of the products.
        trace: Scalar tensor, the trace of the covariance.
        square: Scalar tensor, the squared norm of the gradient.
    """
    count, mean_trace, mean_square, traces, squares, products = ops.unstack(moments, 6)
    count = count + 1
    from_trace, from_square = trace - mean_trace, square - mean_square
    mean_trace = mean_trace + from_trace / count
    mean_square = mean_square + from_square / count
    return ops.stack(
        [
            count,
            mean_trace,
            mean_square,
            traces + from_trace * (trace - mean_trace),
            squares + from_square * (square - mean_square),
            products + from_trace * (square - mean_square),
        ]
    )


def noise_scale(moments):
    """Returns the noise scale and its standard error, from the moments as a NumPy array."""
    count, trace, square, traces, squares, products = moments
    if count == 0:
        return np.nan, np.nan  # an epoch of fewer updates than there are between two measurements
    if square <= 0:
        return np.inf, np.inf
    ratio = trace / square
    if count == 1:
        return float(ratio), np.nan
    variance = (traces - 2 * ratio * products + ratio**2 * squares) / (count - 1)
    return float(ratio), float(np.sqrt(max(variance, 0) / count) / square)
