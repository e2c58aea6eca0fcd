"""`RungeKutta`: runs any explicit tableau, with fixed or controlled step sizes."""

import math

import keras
from keras import ops

from keras_cool.optimizers.multi_gradient_optimizer import MultiGradientOptimizer
from keras_cool.optimizers.preconditioner import preconditioner
from keras_cool.optimizers.runge_kutta.control_settings import (
    MOST_STEPS,
    as_written,
    check_controllable,
    check_full_batch,
    check_one_rate,
    check_several,
    check_unused,
    checked_size_to_set,
    first_step_given,
    is_adaptive,
    steps_exactly,
    takes_several,
)
from keras_cool.optimizers.runge_kutta.epoch_warnings import EpochWarnings
from keras_cool.optimizers.runge_kutta.fsal_cache import FSALCache
from keras_cool.optimizers.runge_kutta.integration import Integration
from keras_cool.optimizers.runge_kutta.stages import run_stages, stages_needed
from keras_cool.optimizers.runge_kutta.step_size_control import StepSizeControl
from keras_cool.optimizers.weighted_sum import add_to_smallest, moved


@keras.saving.register_keras_serializable(package="keras_cool")
class RungeKutta(MultiGradientOptimizer):
    r"""Any explicit Runge-Kutta method of the gradient flow, given by its tableau.

    The inner optimizer follows a flow \(\dot p = -P g(p)\), with the gradient \(g\) of the present
    batch and its preconditioner \(P\), which is 1 for plain gradient descent. With the step size
    \(h\) the stages are

    \[ g_i = g\Big(p - h P \sum_{j < i} a_{ij} g_j\Big), \qquad i = 1, \dots, s, \]

    and the inner optimizer applies the estimate \(\sum_i b_i g_i\). Over plain gradient descent
    this is the method exactly. Over Adam and the like the trial points lie along the optimizer's
    own direction.

    If the tableau has an embedded error, the step size is controlled as in SciPy's `solve_ivp`. A
    step whose error is above the tolerance is tried again with a smaller size, within the same
    training step. The logs have the size of the accepted step (`step_size`), the time reached
    (`flow_time`) and the number of rejected tries so far (`rejected_tries`). `learning_rate` reads
    and writes the size that the next step tries first.

    If the last try is rejected too, the weights stay as they are, the next step begins with the
    smaller size, and `too_large_steps` and `skipped_steps` count it. If the gradient at the present
    point is not finite, the step is skipped without a try, and the size stays. On mini-batches the
    error is that of the flow of the present batch. It does not include the noise between batches.

    A step holds the gradients that a later stage still needs, the weighted sums of the others, and
    one trial point. Each is a copy of the parameters.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> kutta = kc.optimizers.Tableau(
    ...     a=[[], [1 / 2], [-1, 2]], b=[1 / 6, 2 / 3, 1 / 6], order=3
    ... )
    >>> model = kc.inject(keras.Sequential([keras.layers.Dense(1)]))
    >>> model.compile(kc.optimizers.RungeKutta(0.1, kutta), loss="mse")
    >>> history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    >>> int(history.history["gradient_evaluations"][-1])
    3

    Args:
        optimizer: The inner optimizer: a float (plain gradient descent; the step size, or the first
            one under control), a `keras.optimizers.schedules.LearningRateSchedule` (with
            `adaptive=False`), the name of a Keras optimizer, or a Keras optimizer. Defaults to
            `None`: plain gradient descent whose first step size is chosen too.
        tableau: A `Tableau`.
        adaptive: Boolean, whether to control the step size. If `False` the learning rate or its
            schedule is the step size. Defaults to `None`: `True` if the tableau has an embedded
            error.
        rtol: Float, the relative tolerance: the error of a weight in a step is kept below
            `atol + rtol * abs(weight)`, in the root mean square over all weights. Defaults to
            `1e-3`.
        atol: Float, the absolute tolerance, in units of the weights. Defaults to `1e-6`.
        first_step: Float, the first step size, or `"auto"`: chosen as in `solve_ivp`, at the cost
            of one evaluation. Defaults to `None`: the learning rate of the first argument, or
            `"auto"` if it has none (`None` or a name).
        max_step: Float, the largest step size, or `None`: any. Defaults to infinity.
        controller: `"I"`, SciPy's: the next size is `0.9 * error ** (-1 / k)` times the present
            one, where `k` is the order of the error estimate plus 1, and the factor is kept between
            0.2 and 10; or `"PI"`, `0.9 * error ** (-0.7 / k) * previous_error ** (0.4 / k)`, which
            varies less. Defaults to `"I"`.
        max_rejections: Integer, how often a rejected step is tried again. Defaults to 10.
        full_batch: Boolean, whether every step sees the same batch. Then the last stage is kept
            and used as the first stage of the next step (FSAL, first same as last), if weights and
            batch have not changed: a step evaluates the loss instead of one gradient, and holds
            three copies more. The tableau must have its last stage at the new point. Over momentum,
            Adam and the like, whose steps end at another point, it is ignored with a warning.
            Defaults to `False`.
        max_steps: Integer, how many accepted steps a training step takes at most, in one loop.
            More than 1 needs `full_batch=True` and plain gradient descent. (`max_step` is the
            largest size of a step.) Defaults to `None`: 1, or 1000 with `flow_time`.
        flow_time: Float, the flow time over which a training step integrates; the last step is
            shortened to end there, as in `solve_ivp`. It needs the same. If `max_steps` or
            `max_rejections` ends the training step earlier, the accepted steps hold,
            `unfinished_steps` counts it, and a warning at the end of the epoch says so. Defaults to
            `None`: a number of steps, `max_steps`.
        name: String or `None`. The name of the optimizer. Defaults to the class's name in snake
            case.

    Raises:
        ValueError: If the learning rate is negative or not finite, or the name names no optimizer;
            if control is asked for without an embedded error, with a schedule, or over an
            optimizer that does not follow a gradient flow; if a setting of the control is out of
            its range; if several steps are asked for without `full_batch=True` or over another
            optimizer than plain gradient descent; or if a float and another `first_step` are both
            given.
        TypeError: If `optimizer` or `tableau` is of another kind.

    Reference:
        Hairer, Nørsett and Wanner, 1993, "Solving Ordinary Differential Equations I", 2nd edition,
        definition II.1.1 and section II.4 (step size control). Gustafsson, 1991, "Control theoretic
        techniques for stepsize selection in explicit Runge-Kutta methods" (PI control); its
        constants as in Hairer and Wanner, 1996, "Solving Ordinary Differential Equations II",
        section IV.2.
    """

    def __init__(
        self,
        optimizer=None,
        tableau=None,
        *,
        adaptive=None,
        rtol=1e-3,
        atol=1e-6,
        first_step=None,
        max_step=math.inf,
        controller="I",
        max_rejections=10,
        full_batch=False,
        max_steps=None,
        flow_time=None,
        name=None,
    ):
        method = type(self).__name__
        adaptive = is_adaptive(adaptive, tableau, method)
        settings = {
            "rtol": rtol,
            "atol": atol,
            "first_step": first_step,
            "max_step": math.inf if max_step is None else max_step,
            "controller": controller,
            "max_rejections": max_rejections,
            "full_batch": full_batch,
            "max_steps": max_steps,
            "flow_time": flow_time,
        }
        settings = {key: as_written(value) for key, value in settings.items()}
        super().__init__(0.0 if adaptive and optimizer is None else optimizer, name=name)
        check_one_rate(self.inner_optimizer, method)
        self.tableau = tableau
        self._control: StepSizeControl | None = None
        self._fsal_cache: FSALCache | None = None
        self._integration: Integration | None = None
        if adaptive:
            check_controllable(self.inner_optimizer, method)
            check_several(settings, self.inner_optimizer, method)
            check_full_batch(full_batch, self.inner_optimizer, tableau, method)
            settings["first_step"] = first_step_given(optimizer, settings["first_step"], method)
            steps = {key: settings[key] for key in ("max_steps", "flow_time")}
            control = {k: v for k, v in settings.items() if k != "full_batch" and k not in steps}
            self._control = StepSizeControl(self, tableau.error_order, **control)
            if takes_several(settings):
                steps["max_steps"] = steps["max_steps"] or MOST_STEPS
                self._integration = Integration(self, self._control, tableau, **steps)
            self._epoch_warnings = EpochWarnings(method, {**settings, **steps})
        else:
            check_unused(settings, tableau, method)
        self._settings = settings

    def build(self, variables):
        super().build(variables)
        check_several(self._settings, self.inner_optimizer, type(self).__name__)
        kept = self._settings["full_batch"] and steps_exactly(self.inner_optimizer)
        if self._control is not None and kept:
            self._fsal_cache = FSALCache(self, variables, self._control.dtype)

    def estimate_gradient(self, evaluate, point):
        control, cache = self._control, self._fsal_cache
        if cache is None:
            first, evaluations = evaluate(point)[1], 1
        else:
            first, evaluations = cache.first_gradient(evaluate, point)
        diagonal = preconditioner(self.inner_optimizer, evaluate.variables, first)
        if control is None:
            rate = ops.convert_to_tensor(self.inner_optimizer.learning_rate)
            gradients = {0: first}
            del first  # which `run_stages` releases as soon as it can
            stages = run_stages(
                self.tableau, evaluate, point, gradients, rate, diagonal, with_error=False
            )
            return add_to_smallest(stages.estimate, stages.zero_or_nan)

        def try_step(size):
            return run_stages(
                self.tableau, evaluate, point, {0: first}, size, diagonal, with_error=True
            )

        if self._integration is None:
            step = control.step(
                evaluate, point, first, diagonal, try_step, keep_last=cache is not None
            )
        else:
            step = self._integration.step(evaluate, point, first)
        if cache is not None:
            end = evaluate.end or moved(point, step.size, step.estimate)
            cache.keep(evaluate, end, step.last_loss, step.last_gradients)
        per_try = self.evaluations - 1
        control.evaluations.assign(evaluations + step.choices + per_try * step.tries)
        self.inner_optimizer.learning_rate = step.size
        return step.estimate

    @property
    def evaluations(self):
        """The number of gradient evaluations of a step, if no try is rejected."""
        return len(stages_needed(self.tableau, with_error=self._control is not None))

    @property
    def controls_step_size(self):
        return self._control is not None

    def count(self, gradient_evaluations, finite):
        if self._control is not None:  # its loop runs a varying number of times
            gradient_evaluations = self._control.evaluations.value
        super().count(gradient_evaluations, finite)

    def end_epoch(self):
        if self._control is None:
            return
        counters = {"accepted_steps": self.iterations, **self._counters}
        steps = int(counters["accepted_steps"].numpy())
        unfinished = (
            int(counters["unfinished_steps"].numpy()) if "unfinished_steps" in counters else 0
        )
        self._epoch_warnings.look(float(self._control.flow_time.numpy()), steps, unfinished)

    @property
    def _counters(self):
        """The variables that count the steps of training steps that take several."""
        return {} if self._integration is None else self._integration.counters

    def step_logs(self):
        if self._control is None:
            return super().step_logs()
        counted = {**self._control.logs(), **self._counters}
        logs = {name: variable.value + 0 for name, variable in counted.items()}
        return {**super().step_logs(), **logs}

    @property
    def embedded_error(self):
        return None if self._control is None else self._control.previous_error.value

    @property
    def kept_variables(self):
        """The variables that a skipped step assigns to as well: those of the step size control."""
        kept = [] if self._control is None else self._control.variables
        return [*kept, *self._counters.values()]

    @property
    def learning_rate(self):
        """The inner optimizer's learning rate, or the size that the next step tries first."""
        if self._control is None:
            return self.inner_optimizer.learning_rate
        return self._control.next_step_size

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        if self._control is None:
            self.inner_optimizer.learning_rate = learning_rate
            return
        size = checked_size_to_set(learning_rate, type(self).__name__)
        self._control.next_step_size.assign(size)
        self._control.is_to_choose.assign(0)

    def get_config(self):
        """The configuration: the inner optimizer, the tableau and the settings of the control."""
        bounded = math.isfinite(self._settings["max_step"])
        return {
            **super().get_config(),
            "tableau": keras.saving.serialize_keras_object(self.tableau),
            "adaptive": self._control is not None,
            **self._settings,
            "max_step": self._settings["max_step"] if bounded else None,  # JSON has no infinity
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if "tableau" in config:
            config["tableau"] = keras.saving.deserialize_keras_object(
                config["tableau"], custom_objects
            )
        return super().from_config(config, custom_objects)
