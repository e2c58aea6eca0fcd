"""`StepMonitor`: what a training step did, every so many steps."""

import keras
import numpy as np
from keras import ops

from keras_cool.callbacks.shared.figure import new_figure
from keras_cool.callbacks.shared.files import checked_path, replacing
from keras_cool.callbacks.shared.frequency import checked_frequency
from keras_cool.callbacks.shared.squared_norm import squared_norm, squared_norm_if
from keras_cool.callbacks.shared.step_callback import StepCallback, build_optimizer
from keras_cool.float64 import measured_dtype
from keras_cool.optimizer_roles import (
    accumulator,
    accumulators,
    gradient_estimator,
    has_learning_rate,
    unwrap,
    with_learning_rates,
)

# What a multi-gradient optimizer counts from the beginning: the report has the step's own share.
COUNTED = ("gradient_evaluations", "rejected_tries", "skipped_steps", "too_large_steps")


class StepMonitor(StepCallback):
    r"""Reports what one step in every `frequency` did, without a wait for the device in between.

    For the gradient \(g\) that the optimizer was given, of all variables together, the weights
    \(p\) before and \(p'\) after the step:

    - `gradient_norm`: \(|g|\), before clipping; of a method such as `LBFGS`, which takes many
      iterations, that of the first;
    - `update_norm`: \(|p' - p|\), and `update_ratio`: \(|p' - p| / |p|\), which in a training that
      goes well is of the order of 0.001;
    - `weight_norm`: \(|p|\), and the optimizer's `learning_rate` (`learning_rate_1`,
      `learning_rate_2` and so on of a `MultiOptimizer`);
    - of a multi-gradient optimizer also `gradient_evaluations`, `skipped_steps`, and under step
      size control `embedded_error` (1 is the tolerance), `step_size`, `rejected_tries`,
      `too_large_steps`, `flow_time`.

    Under `keras_cool.optimizers.Accumulate` a step is an update: the gradient is the mean over the
    window. The logs of an epoch have the numbers of the last step that was reported; `data()` has
    all of them, and `plot` draws them. The other steps cost what they cost without it. A model
    without `keras_cool.MultiGradientMixin` is given it, and trains as it did.

    In a `multi_gradient_step` of your own the gradient is the first that `self.apply_gradients`
    hands to the model's own optimizer. Of a model that is not built yet TensorFlow has no weights
    before the first step: there the second is the first to be reported.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1), loss="mse")
    >>> report = kc.callbacks.StepMonitor(frequency=2)
    >>> x, y = keras.ops.ones((12, 2)), keras.ops.ones((12, 1))
    >>> history = model.fit(x, y, batch_size=2, callbacks=[report], verbose=0)
    >>> data = report.data()
    >>> [int(step) for step in data["step"]]
    [0, 2, 4]
    >>> bool(abs(data["update_norm"] - 0.1 * data["gradient_norm"]).max() < 1e-5)
    True

    Args:
        frequency: Integer, how many updates lie from one report to the next. Defaults to 100. A
            reported step holds a copy of the weights as they were before it.

    Raises:
        ValueError: If `frequency` is not a positive integer, the model was compiled with
            `steps_per_execution` above 1 (the weights between the steps of one execution never
            leave the device), the model's own optimizer was given no gradients, or there is nothing
            to plot yet.
        ImportError: From `plot`, if matplotlib is not installed.
    """

    observes_gradients = True

    def __init__(self, frequency=100):
        super().__init__()
        self._frequency = checked_frequency(frequency, self, epochs_allowed=False)
        self._reports: list[dict] = []
        self._before: list | None = None

    def data(self):
        """Returns arrays with a value a report: `step`, counted by `iterations`, and the others."""
        names = self._reports[-1] if self._reports else ()
        return {name: np.array([report[name] for report in self._reports]) for name in names}

    def plot(self, path):
        """Draws the reports against the step, and writes the picture.

        Args:
            path: String or `Path`, the file: `.png`, `.pdf` or `.svg`.

        Raises:
            OSError: If the picture cannot be written.
            ValueError: If nothing has been reported, or the path ends otherwise.
        """
        path = checked_path(path, "The path of StepMonitor.plot", (".png", ".pdf", ".svg"))
        data = self.data()
        if not data:
            raise ValueError("StepMonitor has nothing to plot: it draws what `fit` has reported.")
        steps = data.pop("step")
        panels = [
            ("norm", ["gradient_norm", "update_norm", "weight_norm"]),
            ("update ratio", ["update_ratio"]),
        ]
        if "step_size" in data:
            panels.append(("step size", ["step_size"]))
        else:
            rates = [name for name in data if name.startswith("learning_rate")]
            panels.append(("learning rate", rates))
        if "embedded_error" in data:
            panels.append(("embedded error", ["embedded_error"]))
            panels.append(("rejected tries", ["rejected_tries"]))
        figure = new_figure(self, figsize=(7, 1.6 * len(panels)))
        all_axes = figure.subplots(len(panels), 1, sharex=True)
        for axes, (label, names) in zip(all_axes, panels, strict=True):
            logarithmic = label != "rejected tries"
            for name in names:
                values = data[name].astype(float)
                values[logarithmic & ~(values > 0)] = np.nan  # a skipped step: a gap
                axes.plot(steps, values, ".-", markersize=4, label=name.replace("_", " "))
            axes.set_ylabel(label)
            axes.grid(which="both", alpha=0.3)
            if logarithmic:
                axes.set_yscale("log")
            if len(names) > 1:
                axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
        all_axes[-1].set_xlabel("step")
        with replacing(path) as new:
            figure.savefig(new, dpi=120)

    @property
    def step_variables(self):
        return [self._due, self._squared_norm]

    def make_step_variables(self):
        self._due = _variable("due", "int32")
        self._squared_norm = _variable("squared_norm", measured_dtype())

    def set_model(self, model):
        """Takes up the model; Keras calls it before training."""
        if model.steps_per_execution > 1:
            raise ValueError(
                "StepMonitor compares the weights before and after one step, and with "
                f"steps_per_execution={model.steps_per_execution} those in between never leave "
                "the device. Compile the model with steps_per_execution=1."
            )
        self._optimizer = unwrap(model.optimizer)
        self._accumulates = accumulator(self._optimizer) is not None
        self._reports, self._before = [], None
        self._batches, self._next = 0, 0
        super().set_model(model)
        self._due.assign(np.zeros((), "int32"))
        self._squared_norm.assign(np.zeros((), self._squared_norm.dtype))

    def _check_model(self, model):
        """Refuses a `MultiOptimizer` whose optimizers accumulate each by itself."""
        build_optimizer(model)  # a `MultiOptimizer` knows its optimizers afterwards
        if not self._accumulates and accumulators(self._optimizer):
            raise ValueError(
                "StepMonitor reports one window at a time, and the optimizers of the "
                "MultiOptimizer have one each. Put one Accumulate around the whole, or leave "
                "StepMonitor out."
            )

    def observe_gradients(self, gradients):
        if not self._accumulates:
            due = self._due.value > 0
            self._note(due, squared_norm_if(due, gradients))

    def end_step(self):
        if self._accumulates:
            due = ops.logical_and(self._due.value > 0, self._optimizer.window_is_full)
            gradients = self._optimizer.window_gradients  # a mean, a pass over the accumulators
            none = ops.zeros((), measured_dtype())
            self._note(due, ops.cond(due, lambda: squared_norm(gradients()), lambda: none))

    def _note(self, due, squared):
        self._squared_norm.assign(ops.where(due, squared, self._squared_norm.value))

    def on_train_batch_begin(self, batch, logs=None):
        # Not `on_train_batch_end`, for which Keras waits for the logs of every step.
        if self._before is not None:
            self._finish()
        # TensorFlow builds a model within its first step: there are no weights before it.
        if self._before is None and self._batches >= self._next and self._model.built:
            self._begin()
        self._batches += 1

    def on_epoch_end(self, epoch, logs=None):
        if self._before is not None:
            self._finish()
        if not self._reports and not self._accumulates and self._batches > 1:
            raise ValueError(
                "StepMonitor saw no gradients. It looks at those that the model's own optimizer is "
                "given: in `multi_gradient_step` hand them to self.apply_gradients(gradients, "
                "variables), and compile the model with the optimizer that uses them."
            )
        if logs is not None and self._reports:
            logs |= {k: v for k, v in self._reports[-1].items() if k != "step" and k not in logs}

    def _begin(self):
        """Looks at the model before a step that is to be reported."""
        self._before = [ops.copy(v.value) for v in self.model.trainable_variables]
        self._start = {
            "step": _number(self._optimizer.iterations),
            "rates": self._rates(),
        }
        self._counts = self._logs_of_the_method()
        self._due.assign(np.array(1, "int32"))
        self._squared_norm.assign(
            np.array(-1.0, self._squared_norm.dtype)
        )  # until a step has been taken
        batches = round(1 / _number(self._optimizer.share())) if self._accumulates else 1
        self._next = self._batches + self._frequency * batches

    def _finish(self):
        """Compares with the model as it is after the step, if that has been taken."""
        variables = self.model.trainable_variables
        before = self._before or []
        if self._accumulates and not _number(self._optimizer.window_is_full):
            return
        changes = [v.value - b for v, b in zip(variables, before, strict=True)]
        squares = [self._squared_norm.value, squared_norm(changes), squared_norm(before)]
        squares = ops.convert_to_numpy(ops.stack(squares)).astype("float64")
        self._before = None
        self._due.assign(np.array(0, "int32"))
        if squares[0] < 0:  # a last window that was not full
            return
        gradient, update, weight = (float(x) for x in np.sqrt(squares))
        report = {
            "step": int(self._start["step"]),
            "gradient_norm": gradient,
            "update_norm": update,
            "update_ratio": update / weight if weight else float("nan"),
            "weight_norm": weight,
            **self._start["rates"],
        }
        for name, value in self._logs_of_the_method().items():
            counted = name in COUNTED
            report[name] = int(value - self._counts[name]) if counted else value
        self._reports.append(report)

    def _rates(self):
        optimizers = filter(has_learning_rate, with_learning_rates(self._optimizer))
        rates = [_number(o.learning_rate) for o in optimizers]
        if len(rates) == 1:
            return {"learning_rate": rates[0]}
        return {f"learning_rate_{i + 1}": rate for i, rate in enumerate(rates)}

    def _logs_of_the_method(self):
        method = gradient_estimator(self._optimizer)
        if method is None:
            return {}
        logs = {name: _number(value) for name, value in method.step_logs().items()}
        error = method.embedded_error
        return logs if error is None else {**logs, "embedded_error": _number(error)}


def _variable(name, dtype):
    return keras.Variable(
        np.zeros((), dtype),
        dtype=dtype,
        trainable=False,
        aggregation="only_first_replica",
        name=name,
    )


def _number(value):
    # `numpy()` of a variable: one of several replicas is no tensor, and has a value of each.
    return float(
        value.numpy() if isinstance(value, keras.Variable) else ops.convert_to_numpy(value)
    )
