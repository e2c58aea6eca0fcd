"""`Trajectory`: the path of the weights, on the plane in which it mostly lies."""

import warnings
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np

from keras_cool.callbacks.shared.figure import new_figure
from keras_cool.callbacks.shared.files import checked_path, replacing
from keras_cool.callbacks.shared.frequency import checked_frequency
from keras_cool.callbacks.shared.loss_at_weights import LossAtWeights
from keras_cool.callbacks.shared.principal_plane import principal_plane
from keras_cool.callbacks.shared.recorded_points import PointsInFile, PointsInMemory
from keras_cool.callbacks.shared.saved_state import SavedState
from keras_cool.callbacks.shared.trajectory_figure import draw_trajectory


class Trajectory(keras.callbacks.Callback):
    r"""Records the path of the weights, and draws it over the loss surface.

    The picture is the plane of the path's first two principal directions \(d_1, d_2\): with the
    points \(\theta_0, \dots, \theta_n\) recorded, it shows

    \[ \big(d_1 \cdot (\theta_i - \theta_n),\; d_2 \cdot (\theta_i - \theta_n)\big)
    \quad\text{over}\quad L(\theta_n + a\, d_1 + b\, d_2). \]

    The first point is recorded when training begins, the last one when it ends, and others at the
    frequency between. Each is a copy of the trainable weights on the host. There are never more
    than `maximum_points`: when there would be, every second one is dropped and from then on
    half as many are recorded.

    A training that `keras.callbacks.BackupAndRestore` resumes continues the path if it has a
    `file`. Without one it warns, and the path starts again.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> x = keras.random.normal((64, 4))
    >>> y = keras.ops.sum(x, axis=1, keepdims=True)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    >>> trajectory = kc.callbacks.Trajectory()
    >>> history = model.fit(x, y, epochs=5, callbacks=[trajectory], verbose=0)
    >>> trajectory.data()["coordinates"].shape
    (6, 2)

    With matplotlib, `trajectory.plot("trajectory.png", x, y)` draws it.

    Args:
        frequency: `"epoch"`, or a positive integer, the number of steps from one point to the next.
            With `steps_per_execution` points lie between executions. Defaults to `"epoch"`.
        maximum_points: Integer of 3 or more, how many points are kept at most. Defaults to 200.
        dtype: String, the floating-point type in which points are kept. Defaults to `"float32"`.
        file: String or `Path` that ends with `.npy`. The points are kept in this file instead of in
            memory; `numpy.load(file)` has their `"time"` and their `"weights"`. A training that
            starts again overwrites it. Defaults to `None`.

    Raises:
        ValueError: If an argument is not as above; when training begins, if the model has no
            weights to train (on TensorFlow a model that was not built has none).
        OSError: If `file` cannot be written.

    Reference:
        Li, Xu, Taylor, Studer and Goldstein, 2018, "Visualizing the loss landscape of neural nets",
        section 7. Principal directions have the lengths that the path gives them: the filter-wise
        normalisation of section 4 is for random ones.
    """

    def __init__(self, frequency="epoch", maximum_points=200, dtype="float32", file=None):
        super().__init__()
        self.frequency = checked_frequency(frequency, self)
        self.maximum_points = _checked_integer(maximum_points, "maximum_points", 3)
        self.dtype = _checked_dtype(dtype)
        self.file = None if file is None else checked_path(file, "Trajectory(file=...)", (".npy",))
        self._by_epoch = self.frequency == "epoch"
        if not self._by_epoch:
            self.on_train_batch_begin = self._before_batch
        self._points: Any = None  # until the first epoch begins

    def set_model(self, model):
        """Takes up the model; Keras calls it before training."""
        super().set_model(model)
        self._points = self._plane = None
        self._time = 0
        interval = 1 if self._by_epoch else self.frequency
        self._saved = SavedState(points=0, interval=interval, steps_before=0, steps_of_epoch=0)
        self._saved.attach(model, self._name)

    @property
    def _name(self):
        return f"trajectory_{self.frequency}"

    def on_epoch_begin(self, epoch, logs=None):
        saved = self._saved
        saved["steps_before"] += saved["steps_of_epoch"]
        saved["steps_of_epoch"] = 0
        self._time = epoch if self._by_epoch else int(saved["steps_before"])
        if self._points is None:
            self._begin()
        if self._by_epoch:
            self._record_if_due()
            self._time = epoch + 1  # what it is when training ends

    def _before_batch(self, batch, logs=None):
        saved = self._saved
        self._time = int(saved["steps_before"]) + batch
        self._record_if_due()
        # The end of a batch is not looked at: Keras would wait for the device after each.
        end = batch + (self._model.steps_per_execution or 1)
        saved["steps_of_epoch"] = min(end, self.params.get("steps") or end)
        self._time = int(saved["steps_before"] + saved["steps_of_epoch"])

    def on_train_end(self, logs=None):
        if self._points is not None and (self._points.times or [-1])[-1] < self._time:
            self._thin()
            self._record(self._time)
        self._saved.detach(self._model, self._name)

    def _begin(self):
        self._variables = list(self.model.trainable_variables)
        if not self._variables:
            raise ValueError(
                "Trajectory records the weights from before the first step, and this model has "
                "none that are trained yet. Build it before `fit`: begin it with keras.Input, or "
                "call model.build(input_shape)."
            )
        size = sum(int(np.prod(v.shape)) for v in self._variables)
        was_interrupted = self._saved["points"] > 0
        if self.file is not None:
            self._points = PointsInFile(self.file, size, self.dtype, go_on=was_interrupted)
            times = self._points.times  # the interrupted training may have come further
            self._points.keep([i for i, time in enumerate(times) if time <= self._time])
        else:
            self._points = PointsInMemory(size, self.dtype)
        if was_interrupted and not self._points.times:
            warnings.warn(
                "The path of Trajectory begins anew in the middle of a training that was "
                "interrupted: the points before are lost. Keep them in a file: "
                "Trajectory(file='trajectory.npy').",
                stacklevel=2,
            )

    def _record_if_due(self):
        if self._is_due():
            self._thin()
            if self._is_due():
                self._record(self._time)

    def _is_due(self):
        times, interval = self._points.times, self._saved["interval"]
        return not times or self._time // interval > times[-1] // interval

    def _thin(self):
        """Makes room for one more point: the interval doubles until there is."""
        while len(self._points.times) >= self.maximum_points:
            self._saved["interval"] *= 2
            intervals = np.array(self._points.times) // self._saved["interval"]
            self._points.keep(np.unique(intervals, return_index=True)[1].tolist())

    def _record(self, time):
        _ = self.model  # on JAX the variables have no values without
        self._points.append(time, [keras.ops.convert_to_numpy(v) for v in self._variables])
        self._saved["points"] = len(self._points.times)
        self._plane = None

    def data(self, x=None, y=None, sample_weight=None, batch_size=None):
        """The path along its first two principal directions.

        Args:
            x: As for `model.evaluate`. If it is given, the losses at the points are computed.
            y: As for `model.evaluate`.
            sample_weight: As for `model.evaluate`.
            batch_size: As for `model.evaluate`.

        Returns:
            A dictionary of arrays: `"coordinates"`, `(n, 2)`, from the last point;
            `"explained_variance_ratio"`, `(2,)`; `"directions"`, `(2, weights)`, orthonormal, with
            the weights in the order of `model.trainable_variables`; `"epochs"` or `"steps"`,
            `(n,)`, how many there had been at each point; and, where `x` is given, `"loss"`,
            `(n,)`. Points that are not finite are left out.

        Raises:
            ValueError: If there was no training, or the path spans no plane.
        """
        plane, indices = self._plane_and_indices()
        times = np.array(self._points.times)[indices]
        data = {**plane._asdict(), "epochs" if self._by_epoch else "steps": times}
        if x is not None:
            weights = self._points.weights
            with self._loss_at_weights(x, y, sample_weight, batch_size) as loss:
                data["loss"] = np.array([loss.at(weights[i]) for i in indices])
        return data

    def surface(self, x, y=None, sample_weight=None, batch_size=None, resolution=25, margin=0.25):
        """The loss on the plane of the path, on a grid around it.

        It is the model's own, as `model.evaluate` gives it, with regularisers. What is not
        trainable, such as the statistics of batch normalisation, is as the model has it now, and
        the model is bit for bit the same afterwards.

        Args:
            x: As for `model.evaluate`: arrays, or a dataset that can be read again.
            y: As for `model.evaluate`.
            sample_weight: As for `model.evaluate`.
            batch_size: As for `model.evaluate`. Quickest are arrays in one batch, `len(x)`.
            resolution: Integer of 2 or more, points of the grid along a side. Defaults to 25, which
                is 625 evaluations.
            margin: Float, how far the grid goes beyond the path, in lengths of the path along each
                direction. Defaults to 0.25.

        Returns:
            A dictionary of arrays: `"first"` and `"second"`, `(resolution,)`, the grid's
            coordinates along the directions, and `"loss"`, `(resolution, resolution)`: `loss[i, j]`
            is that at `second[i]` and `first[j]`.

        Raises:
            ValueError: If there was no training, the path spans no plane, or there are no data.
        """
        resolution = _checked_integer(resolution, "resolution", 2)
        is_number = isinstance(margin, Real) and not isinstance(margin, bool)
        if not is_number or not 0 <= float(margin) < np.inf:
            raise ValueError(
                f"`margin` is a float of 0 or more, in lengths of the path. It was given {margin!r}"
                "; 0.25 is the default."
            )
        plane, indices = self._plane_and_indices()
        low, high = plane.coordinates.min(axis=0), plane.coordinates.max(axis=0)
        room = margin * (high - low)
        first, second = np.linspace(low - room, high + room, resolution, axis=1)
        last = np.array(self._points.weights[indices[-1]], "float64")
        losses = np.empty((resolution, resolution))
        with self._loss_at_weights(x, y, sample_weight, batch_size) as loss:
            for i, j in np.ndindex(losses.shape):
                step = first[j] * plane.directions[0] + second[i] * plane.directions[1]
                losses[i, j] = loss.at(last + step)
        return {"first": first, "second": second, "loss": losses}

    def plot(
        self,
        path,
        x=None,
        y=None,
        sample_weight=None,
        batch_size=None,
        resolution=25,
        margin=0.25,
    ):
        """Draws the path over the loss surface.

        Colours are logarithmic if the loss is positive; where it is not finite there is a gap.

        Args:
            path: String or `Path` of the picture, which ends with `.png`, `.pdf` or `.svg`.
            x: As for `surface`.
            y: As for `surface`.
            sample_weight: As for `surface`.
            batch_size: As for `surface`.
            resolution: As for `surface`.
            margin: As for `surface`.

        Raises:
            ImportError: If matplotlib is not installed.
            OSError: If the picture cannot be written.
            ValueError: As for `surface`.
        """
        path = checked_path(path, "The path of Trajectory.plot", (".png", ".pdf", ".svg"))
        figure = new_figure(self, figsize=(6.4, 4.8))
        plane, _ = self._plane_and_indices()
        surface = self.surface(x, y, sample_weight, batch_size, resolution, margin)
        draw_trajectory(figure, plane.coordinates, surface, plane.explained_variance_ratio)
        with replacing(path) as new:
            figure.savefig(new, dpi=150)

    def _loss_at_weights(self, *data):
        return LossAtWeights(self.model, self._variables, *data)

    def _plane_and_indices(self):
        """The plane, and which of the points are finite."""
        if self._points is None:
            raise ValueError(
                "Trajectory has recorded nothing yet. Train with it first: "
                "model.fit(x, y, epochs=10, callbacks=[trajectory])."
            )
        if self._plane is None:
            weights = self._points.weights
            indices = [i for i, p in enumerate(weights) if np.all(np.isfinite(p))]
            points = [weights[i] for i in indices]
            distinct = len({hash(p.tobytes()) for p in points})
            plane = principal_plane(points) if distinct >= 3 else None
            if plane is None:
                raise ValueError(
                    f"The {distinct} distinct points that Trajectory has recorded span no plane, "
                    "which takes three that do not lie on one line. Train longer, or record more "
                    "often: Trajectory(frequency=1) records after every step."
                )
            self._plane = plane, indices
        return self._plane


def _checked_integer(value, argument, least):
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(
            f"`{argument}` of Trajectory is an integer of {least} or more. It was given {value!r}. "
            f"For example: {argument}=25."
        )
    return int(value)


def _checked_dtype(dtype):
    try:
        checked = np.dtype(dtype)
    except TypeError:
        checked = None
    if dtype is None or checked is None or checked.kind != "f":
        raise ValueError(
            "`dtype` of Trajectory is one of 'float16', 'float32' and 'float64'. It was given "
            f"{dtype!r}. For example: Trajectory(dtype='float32')."
        )
    return checked.name
