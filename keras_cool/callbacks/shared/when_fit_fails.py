"""`WhenFitFails`: what a callback does when an exception or Ctrl-C ends `fit`."""

import contextlib
import functools

from keras_cool.keras_private import is_validation, running_fit


class WhenFitFails:
    """Calls a function if an exception leaves the `fit` that is running.

    Keras tells callbacks nothing then, not even that training has ended. A model with the mixin
    calls their `on_train_error` itself; this is for the `fit` of a plain model: it looks at all
    that such a `fit` calls.

    Args:
        model: The Keras model.
        function: A function without arguments, which may be called more than once.
    """

    def __init__(self, model, function):
        self._function = function
        self._put_back = contextlib.ExitStack()
        fit = running_fit()
        if fit is None:
            return
        callbacks, iterator = fit
        for name in dir(callbacks):
            if name.startswith("on_"):
                self._watch(callbacks, name)
        self._watch(model, "train_function")
        self._watch(model, "evaluate", is_concerned=is_validation)
        self._watch(iterator, "catch_stop_iteration", is_context=True)

    def release(self):
        """Looks no longer."""
        self._put_back.close()

    def _watch(self, owner, name, is_context=False, is_concerned=None):
        watched = getattr(owner, name)
        own = vars(owner).get(name)

        @functools.wraps(watched)
        def watching(*args, **kwargs):
            if is_concerned is not None and not is_concerned(kwargs):
                return watched(*args, **kwargs)  # whoever calls it may catch what it raises
            with self._noticing():
                return watched(*args, **kwargs)

        @contextlib.contextmanager
        def watching_context(*args, **kwargs):
            with self._noticing(), watched(*args, **kwargs):
                yield

        def put_back():
            if vars(owner).get(name) is not put:
                return  # made anew meanwhile
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

        put = watching_context if is_context else watching
        setattr(owner, name, put)
        self._put_back.callback(put_back)

    @contextlib.contextmanager
    def _noticing(self):
        try:
            yield
        except StopIteration:
            raise
        except BaseException:
            self.release()
            self._function()
            raise
