"""Callbacks inside the training step: which they are, and when they are called.

A step calls a `StepCallback` in this order, on every replica and in the compiled graph:

    begin_step()
    with during_step():                             # numbers have the values of a `Schedule`
        for each micro-batch of the first evaluation:
            measured += measure_microbatch(gradients, share)
        observe_microbatches(measured, parts, samples, gradients)
        observe_gradients(gradients)                # those that the optimizer is given
        ...                                         # the update
    end_step()
"""

import contextlib
import threading

import keras

from keras_cool import backend
from keras_cool.backend.row_sparse import RowSparse
from keras_cool.training.batch_weights import BatchWeights


def _whole(gradients):
    """Gradients as callbacks are shown them: row-sparse ones made dense."""
    return [g.dense() if isinstance(g, RowSparse) else g for g in gradients]


class StepEvents:
    """What happens in one step on one replica, told to the callbacks.

    Args:
        callbacks: List of `StepCallback`s.
        weights: The `BatchWeights` of the step's batch. Defaults to none.
    """

    def __init__(self, callbacks=(), weights=None):
        self.weights = weights or BatchWeights()
        self.has_tracked_loss = False
        self._callbacks = callbacks
        self._has_evaluated = self._has_shown_gradients = False

    @property
    def numbers(self):
        """Scalar tensors that the loss may depend on without reading a variable."""
        return [number for c in self._callbacks for number in c.numbers_in_step]

    def begin(self):
        """Tells that the step begins."""
        for callback in self._callbacks:
            callback.begin_step()

    def first_evaluation(self):
        """Returns these events for the first evaluation of a step, if a callback measures the
        micro-batches of that, and `None` otherwise."""
        is_first, self._has_evaluated = not self._has_evaluated, True
        return self if is_first and self._measuring() else None

    def measured(self, gradients, share):
        """Returns what the callbacks measure of a micro-batch, and a one: a list of scalars."""
        gradients = _whole(gradients)
        values = [c.measure_microbatch(gradients, share) for c in self._measuring()]
        return [*values, keras.ops.ones(())]

    def microbatches(self, measured, parts, samples, gradients):
        """Tells that all micro-batches are computed."""
        gradients = _whole(gradients)
        for callback, value in zip(self._measuring(), measured, strict=True):
            callback.observe_microbatches(value, parts, samples, gradients)

    def gradients(self, gradients, of_all_replicas):
        """Tells what the optimizer is going to be given, the first time in a step."""
        observers = [c for c in self._callbacks if c.observes_gradients]
        if not observers or self._has_shown_gradients:
            return
        self._has_shown_gradients = True
        gradients = _whole(g for g in gradients if g is not None)
        if not of_all_replicas:
            gradients = backend.updates.gradients_of_all_replicas(gradients)
        for callback in observers:
            callback.observe_gradients(gradients)

    def end(self):
        """Tells that the step ends."""
        for callback in self._callbacks:
            callback.end_step()

    def _measuring(self):
        return [c for c in self._callbacks if c.observes_microbatches]


class StepHooks:
    """The callbacks that act inside a model's step."""

    def __init__(self):
        self._callbacks = []
        # Those that each compiled function was made with; `None`: it has to be made anew.
        self._compiled_with: dict[str, list | None] = {"train": [], "test": [], "predict": []}
        # Replicas of TensorFlow are threads: what is on the model would be that of all of them.
        self._present = threading.local()

    @property
    def callbacks(self):
        """The callbacks, a list of `StepCallback`s."""
        return list(self._callbacks)

    @property
    def events(self):
        """The `StepEvents` of the step that runs on this thread; outside of one, none happen."""
        return getattr(self._present, "events", None) or StepEvents()

    def attach(self, callback):
        """Makes a callback a part of the step."""
        if not any(c is callback for c in self._callbacks):
            self._callbacks.append(callback)
            # The numbers that it changes are constants in what was compiled without it.
            for kind in ("test", "predict"):
                self._compiled_with[kind] = self._compiled_with[kind] or None

    def detach(self, callback):
        """Takes a callback out of the step."""
        self._callbacks = [c for c in self._callbacks if c is not callback]

    def keep(self, callbacks):
        """Detaches all but those in `callbacks`: an interrupted `fit` may have left some behind."""
        given = getattr(callbacks, "callbacks", callbacks)  # of a `CallbackList`
        kept = {id(c) for c in keras.tree.flatten(given)}
        self._callbacks = [c for c in self._callbacks if id(c) in kept]

    def are_new_to(self, kind):
        """Whether a function has to be compiled anew, since other callbacks take part in it.

        Args:
            kind: `"train"`, `"test"` or `"predict"`. The callbacks are noted for it.
        """
        before, self._compiled_with[kind] = self._compiled_with[kind], self.callbacks
        return before != self._callbacks

    @contextlib.contextmanager
    def step(self, weights, optimizers):
        """Returns the context of a training step: its events begin and end with it.

        Args:
            weights: The `BatchWeights` of its batch.
            optimizers: List of the optimizers that may take part.
        """
        events, outer = StepEvents(self.callbacks, weights), getattr(self._present, "events", None)
        self._present.events = events
        try:
            events.begin()
            with self.during_step(), weights.begin_batch(optimizers):
                yield events
            events.end()
        finally:
            self._present.events = outer

    def during_step(self):
        """Returns the context in which numbers have the values of a step, on entering."""
        with contextlib.ExitStack() as stack:
            for callback in self._callbacks:
                stack.enter_context(callback.during_step())
            return stack.pop_all()
