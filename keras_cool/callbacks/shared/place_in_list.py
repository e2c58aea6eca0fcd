"""`place_in_list`: a callback that swaps weights stands where all others see what they should."""

import keras

from keras_cool.keras_private import call_in_order


class _AtFirst(keras.callbacks.Callback):
    """Lets a callback begin an epoch before all others."""

    def __init__(self, callback):
        super().__init__()
        self.callback = callback

    def on_epoch_begin(self, epoch, logs=None):
        self.callback.on_epoch_begin(epoch, logs)


def place_in_list(callback, callbacks):
    """Puts a callback that swaps other weights in at the end of an epoch into the right place.

    At the end of an epoch it comes after those that act on the weights of the training, which have
    the attribute `acts_on_training_weights`, and before all others, which see the other weights. At
    the beginning of an epoch, where it is to put the weights back, it comes first, and so it may be
    called twice. Among themselves the others keep their order.

    Args:
        callback: The callback, one of the list.
        callbacks: The `CallbackList` of the running `fit`, in any `on_train_begin`.
    """
    others = [
        c
        for c in callbacks.callbacks
        if c is not callback and getattr(c, "callback", None) is not callback
    ]
    first = _AtFirst(callback)
    first.set_params(callbacks.params)
    first.set_model(callback.model)
    before = [c for c in others if getattr(c, "acts_on_training_weights", False)]
    after = [c for c in others if not getattr(c, "acts_on_training_weights", False)]
    # A new list: Keras is going through the old one.
    callbacks.callbacks = [first, *before, callback, *after]
    call_in_order(callbacks)


__all__ = ["place_in_list"]
