"""`ExtendedStep`: the part of the mixin that lets callbacks act inside the training step."""

import contextlib
import threading

import keras

from keras_cool import backend


class Attached:
    """The callbacks that take part in a model's step. Keras would track a plain list."""

    def __init__(self):
        self.callbacks = []
        # Those that the compiled functions were made with; `None`: they have to be made anew.
        self.of_train_function: list | None = []
        self.of_test_function: list | None = []
        self.of_predict_function: list | None = []


class PresentStep(threading.local):
    """What has been done in this step. Replicas of TensorFlow are threads, and a flag on the model
    would be that of all of them."""

    has_shown_gradients = False
    has_shown_parts = False
    has_tracked_loss = False


class ExtendedStep:
    """Keeps the callbacks that act inside the step, and calls them at its stations."""

    _attached: Attached | None = None
    _present_step = PresentStep()

    def attach_to_step(self, callback):
        """Makes a `StepCallback` a part of the training step. It calls this itself."""
        self.check_no_train_step()  # now: TensorFlow does not get over an error in its first trace
        if self._attached is None:
            self._attached = Attached()
        if not any(c is callback for c in self._attached.callbacks):
            self._attached.callbacks.append(callback)
            # The numbers that it changes are constants in what was compiled without it.
            self._attached.of_test_function = self._attached.of_test_function or None
            self._attached.of_predict_function = self._attached.of_predict_function or None

    def detach_from_step(self, callback):
        """Ends what `attach_to_step` began."""
        if self._attached is not None:
            self._attached.callbacks[:] = [c for c in self.step_callbacks if c is not callback]

    @property
    def step_callbacks(self):
        """The callbacks that take part in the step."""
        return [] if self._attached is None else list(self._attached.callbacks)

    def keep_step_callbacks(self, callbacks):
        """Detaches all but those in `callbacks`: an interrupted `fit` may have left some behind."""
        given = getattr(callbacks, "callbacks", callbacks)  # of a `CallbackList`
        kept = {id(c) for c in keras.tree.flatten(given)}
        for callback in self.step_callbacks:
            if id(callback) not in kept:
                self.detach_from_step(callback)

    def make_train_function(self, force=False):
        """Makes the training function, anew if other callbacks take part in the step."""
        if self._attached is not None:
            force = force or self._attached.of_train_function != self._attached.callbacks
            self._attached.of_train_function = self.step_callbacks
        self._separate()
        super().make_train_function(force)

    def make_test_function(self, force=False):
        """Makes the function that evaluates, anew if other callbacks take part in the step."""
        if self._attached is not None:
            force = force or self._attached.of_test_function != self._attached.callbacks
            self._attached.of_test_function = self.step_callbacks
        self._separate()
        super().make_test_function(force)

    def make_predict_function(self, force=False):
        """Makes the function that predicts, anew if other callbacks take part in the step."""
        if self._attached is not None:
            force = force or self._attached.of_predict_function != self._attached.callbacks
            self._attached.of_predict_function = self.step_callbacks
        self._separate()
        super().make_predict_function(force)

    def _separate(self):
        """Gives variables that share a buffer, as weights and their average do on JAX at the end of
        `fit`, one of their own: the steps donate them."""
        optimizer = getattr(self, "optimizer", None)
        backend.snapshots.separate([*self.variables, *(optimizer.variables if optimizer else [])])

    def test_step(self, *args):
        with self.reading_state(*args):
            during_step = self.during_step()
        with during_step:
            return super().test_step(*args)

    def predict_step(self, *args):
        with self.reading_state(*args):
            during_step = self.during_step()
        with during_step:
            return super().predict_step(*args)

    def show_gradients(self, gradients, variables, of_all_replicas):
        """Lets the callbacks see the gradients that the optimizer is going to be given, the first
        of a step."""
        observers = [c for c in self.step_callbacks if c.observes_gradients]
        if observers and not self._present_step.has_shown_gradients:
            self._present_step.has_shown_gradients = True
            pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
            gradients = [g for g, _ in pairs]
            if not of_all_replicas:
                gradients = backend.updates.gradients_of_all_replicas(gradients)
            for callback in observers:
                callback.observe_gradients(gradients)

    def part_observers(self):
        """The callbacks that look at the micro-batches of a batch, in the first evaluation of a
        step."""
        observers = [c for c in self.step_callbacks if c.observes_parts]
        if self._present_step.has_shown_parts:
            return []
        self._present_step.has_shown_parts = True
        return observers

    @contextlib.contextmanager
    def _extended(self):
        """The context of a training step: it begins and ends with the callbacks' own parts."""
        callbacks = self.step_callbacks
        self._present_step.has_shown_gradients = self._present_step.has_shown_parts = False
        for callback in callbacks:
            callback.begin_step()
        with self.during_step():
            yield
        for callback in callbacks:
            callback.end_step()

    def during_step(self):
        """The context in which numbers have the values that the callbacks give them in a step."""
        with contextlib.ExitStack() as stack:
            for callback in self.step_callbacks:
                stack.enter_context(callback.during_step())
            return stack.pop_all()
