"""`LearningRateFinder`: the learning-rate range test."""

import warnings

import keras
import numpy as np

from keras_cool.callbacks.shared.figure import new_figure
from keras_cool.callbacks.shared.files import checked_path, replacing
from keras_cool.callbacks.shared.learning_rates import (
    checked_rates,
    set_schedule,
    updates_of,
)
from keras_cool.callbacks.shared.rate_range import (
    GeometricRates,
    check_range,
    falling_part,
    smoothed_losses,
    steepest_descent,
)
from keras_cool.callbacks.shared.running_loss import RunningLoss, is_above
from keras_cool.callbacks.shared.training_state import TrainingState
from keras_cool.callbacks.shared.when_fit_fails import WhenFitFails
from keras_cool.keras_private import learning_rate_schedule, running_fit
from keras_cool.optimizer_roles import gradient_estimator, with_learning_rates
from keras_cool.training.random_generators import RandomGenerators


class LearningRateFinder(keras.callbacks.Callback):
    r"""Runs the learning-rate range test, suggests a rate, and leaves no trace.

    The first updates of `fit` are taken with growing rates,

    \[ r_i = r_{\min} \left(\frac{r_{\max}}{r_{\min}}\right)^{i / (n - 1)}, \qquad
    i = 0, \dots, n - 1, \]

    and each loss \(l_i\), that of the batch before its update, is smoothed,

    \[ s_i = \frac{1 - \beta}{1 - \beta^{i + 1}} \sum_{j \le i} \beta^{i - j} l_j. \]

    The test ends after `steps` updates, or as soon as the smoothed loss is above `divergence` times
    its best or a loss is not finite. Then training stops, with everything as it was: weights,
    optimizer, learning rate or schedule, the state and seeds of layers, and the random generators
    of Python, NumPy, PyTorch and Keras. A `fit` after it gives the same weights, bit for bit, as
    one without it, also if an error or Ctrl-C ends the test.

    The suggestion is the rate where \(s\) falls fastest over \(\log r\): where the stretch of
    \(1 / (1 - \beta)\) updates begins that it falls most in, before its minimum.

    Give the test a `fit` of its own: what other callbacks do meanwhile (files, logs, the state of
    early stopping) is theirs. In the logs `loss` is that of the last update only. Under
    `keras_cool.optimizers.Accumulate`, and `gradient_accumulation_steps` of Keras, the rate grows
    once an update, and the loss is that of the whole window. What a source of data keeps itself, as
    a generator does or a shuffled `tf.data.Dataset`, is not put back. On TensorFlow build the model
    first.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", loss="mse")
    >>> x = keras.random.normal((64, 2), seed=1)
    >>> finder = kc.callbacks.LearningRateFinder(1e-4, 100.0, steps=60)
    >>> history = model.fit(x, x[:, :1], epochs=60, callbacks=[finder], verbose=0)
    >>> 1e-3 < finder.suggestion < 1.0
    True
    >>> model.optimizer.learning_rate = finder.suggestion

    Args:
        minimum: Float, the first learning rate.
        maximum: Float, the last one.
        steps: Integer, the number of updates, over several epochs if one is shorter. Defaults to
            100.
        smoothing: Float, the weight \(\beta\) of the losses before. Defaults to 0.9.
        divergence: Float, how many times the best smoothed loss is too much. Defaults to 4.

    Attributes:
        suggestion: Float, the suggested rate; `None` before the test, and where the loss falls
            nowhere.

    Raises:
        ValueError: If an argument is out of its range; when training begins, if several steps share
            a rate (`steps_per_execution`), the optimizer chooses its step size itself or has
            several rates, or there is no loss to look at.

    Reference:
        Smith, 2017, "Cyclical learning rates for training neural networks", section 3.3 (the range
        test). The smoothing and the end at four times the best loss are those of the fastai library
        (Howard and Gugger, 2020, "Fastai: a layered API for deep learning").
    """

    acts_on_training_weights = True  # before other weights are swapped in

    suggestion: float | None
    _state: TrainingState | None
    _is_over: bool
    _epoch_is_open: bool
    _guard: WhenFitFails | None
    _rates: list
    _losses: list

    def __init__(self, minimum, maximum, steps=100, smoothing=0.9, divergence=4.0):
        super().__init__()
        check_range(minimum, maximum, steps, smoothing, divergence)
        self.minimum, self.maximum, self.steps = float(minimum), float(maximum), int(steps)
        self.smoothing, self.divergence = smoothing, divergence
        self._start_anew()

    def set_model(self, model):
        """Takes up the model; Keras calls it before training."""
        super().set_model(model)
        self._start_anew()

    def on_train_begin(self, logs=None):
        model = self.model
        if model.steps_per_execution != 1:
            raise ValueError(
                "LearningRateFinder takes one step at each rate, and the model was compiled with "
                f"steps_per_execution={model.steps_per_execution}: so many steps would share a "
                "rate and show one loss. Set `model.steps_per_execution = 1` for the test."
            )
        if len(with_learning_rates(model.optimizer)) > 1:
            raise ValueError(
                "LearningRateFinder looks for one learning rate, and "
                f"{type(model.optimizer).__name__} has several. Run the test with one optimizer "
                "for all variables."
            )
        fit = running_fit()
        others = [] if fit is None else [c for c in fit[0].callbacks if c is not self]
        if any(isinstance(c, LearningRateFinder) for c in others):
            raise ValueError(
                "Two LearningRateFinders would set the rates of the same steps. Give each a `fit` "
                "of its own."
            )
        _check_chosen_by_user(model.optimizer)
        checked_rates([model.optimizer], self)
        self._loss = RunningLoss(model, self)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_is_open = True
        if self._state is None:
            self._begin()
            self._guard = WhenFitFails(self.model, self.on_train_error)

    def on_train_batch_begin(self, batch, logs=None):
        if batch:
            self._look()

    def on_test_begin(self, logs=None):
        self._end_of_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self._end_of_epoch()

    def on_train_end(self, logs=None):
        if not self._is_over:
            warnings.warn(
                f"LearningRateFinder took {len(self._rates)} of its {self.steps} updates, and then "
                "the epochs were over. Give `fit` more `epochs`, or the finder less `steps`.",
                stacklevel=2,
            )
            if self._rates:
                self._end()
        if self._guard is not None:
            self._guard.release()
        self.put_back()  # again, after what came at the end of the epoch and of `fit`
        self._state = None

    def on_train_error(self):
        """Puts everything back when an exception or Ctrl-C ends `fit`."""
        self.put_back()

    def data(self):
        """Returns the test: a dictionary of NumPy arrays, an entry for each update.

        Returns:
            `{"rates", "losses", "smoothed_losses"}`.
        """
        losses = np.array(self._losses)
        return {
            "rates": np.array(self._rates),
            "losses": losses,
            "smoothed_losses": smoothed_losses(losses, self.smoothing),
        }

    def plot(self, path):
        """Draws the losses over the rates, the suggestion marked.

        Args:
            path: String or `Path` that ends with `.png`, `.svg` or `.pdf`.

        Returns:
            The path.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        path = checked_path(path, "plot(path)", (".png", ".svg", ".pdf"))
        data = self.data()
        figure = new_figure(self, figsize=(6, 3.6))
        axes = figure.subplots()
        axes.semilogx(data["rates"], data["losses"], color="0.75", label="loss of the batch")
        axes.semilogx(data["rates"], data["smoothed_losses"], color="C0", label="smoothed")
        if self.suggestion is not None:
            axes.axvline(
                self.suggestion,
                color="C1",
                linestyle="--",
                label=f"suggestion {self.suggestion:.2g}",
            )
        if len(data["rates"]):  # the last losses, far above the others, would flatten these
            part = data["smoothed_losses"][falling_part(data["smoothed_losses"], self.smoothing)]
            low, high = part.min(), part.max()
            if low < high < np.inf:
                axes.set_ylim(low - 0.3 * (high - low), high + 0.5 * (high - low))
        axes.set(xlabel="learning rate", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.legend()
        with replacing(path) as new:
            figure.savefig(new, dpi=120)
        return path

    def put_back(self):
        """Puts everything back, as it was before the test. It does so by itself, after an exception
        and Ctrl-C too; what happens to the model after the test is lost if it is called again."""
        if self._state is None:
            return
        model = self.model
        if self._schedule is not None and learning_rate_schedule(model.optimizer) is self._range:
            set_schedule(model, model.optimizer, self._schedule)
        self._state.put_back()
        self._generators.put_back()

    def _start_anew(self):
        self.suggestion = None
        self._rates, self._losses = [], []
        self._state = self._schedule = self._guard = None
        self._is_over = self._epoch_is_open = False

    def _begin(self):
        model = self.model
        if not model.built:
            raise ValueError(
                "LearningRateFinder keeps the weights before the first step, and the model has "
                "none yet. Build it before: begin it with keras.Input(shape), or call "
                "model.build((None, ...))."
            )
        optimizer = model.optimizer
        if not optimizer.built:  # TensorFlow would build it in the first step
            optimizer.build(model.trainable_variables)
        self._generators = RandomGenerators()
        self._state = TrainingState(model)
        self._updates = updates_of(self.model)
        self._range = GeometricRates(self.minimum, self.maximum, self.steps, self._updates)
        self._schedule = learning_rate_schedule(optimizer)
        if self._schedule is not None:
            set_schedule(model, optimizer, self._range)
        self._set_rate()
        self._loss.reset()

    def _set_rate(self):
        optimizer = self.model.optimizer
        if self._schedule is None:
            optimizer.learning_rate = self._range.at(len(self._rates))
        self._rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))

    def _look(self):
        """Takes down what the last step did, and sets the rate of the next one."""
        if self._is_over:
            return
        self.model  # noqa: B018  on JAX this puts the state into the variables
        loss = self._loss.since_start()
        if loss is None:
            return
        updates = updates_of(self.model)
        if np.isfinite(loss) and updates == self._updates:
            return  # in the middle of a window, or skipped: the rate stays
        self._updates = updates
        self._rates.append(self._rate)
        self._losses.append(loss)
        smoothed = smoothed_losses(self._losses, self.smoothing)
        if len(self._rates) == self.steps or is_above(
            smoothed[-1], self.divergence, smoothed.min()
        ):
            self._end()
            return
        self._loss.reset()
        self._set_rate()

    def _end_of_epoch(self):
        """Before the validation of an epoch, and after it."""
        if self._epoch_is_open:
            self._look()
            self._loss.keep_over_epochs()
            self._epoch_is_open = False
        if self._is_over:
            self.put_back()  # Keras has taken one more step, after which it stops

    def _end(self):
        self._is_over = True
        self.model.stop_training = True
        data = self.data()
        self.suggestion = steepest_descent(data["rates"], data["smoothed_losses"], self.smoothing)
        if self.suggestion is None:
            warnings.warn(
                "LearningRateFinder has no rate to suggest: the loss falls nowhere between "
                f"{self.minimum:g} and {self.maximum:g}. Look at `data()`, and begin with a "
                "smaller rate.",
                stacklevel=2,
            )
        self.put_back()


def _check_chosen_by_user(optimizer):
    method = gradient_estimator(optimizer)
    if method is not None and method.controls_step_size:
        raise ValueError(
            f"LearningRateFinder sets the step sizes, and {type(method).__name__} chooses "
            "them itself. It needs no test; or give it `adaptive=False`."
        )


__all__ = ["LearningRateFinder"]
