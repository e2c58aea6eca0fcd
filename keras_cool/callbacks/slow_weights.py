"""`SlowWeights`: the slow weights of `Lookahead` wherever the model is looked at."""

from keras_cool import backend
from keras_cool.callbacks.shared.swapping_callback import SwappingCallback
from keras_cool.keras_private import holds_several, trainable_variables_of
from keras_cool.optimizer_roles import chain, optimizers_of, unwrap
from keras_cool.optimizers.lookahead import Lookahead


class SlowWeights(SwappingCallback):
    """Shows the slow weights of `keras_cool.optimizers.Lookahead` wherever the model is looked at.

    That is validation, other callbacks at the end of an epoch, and everything after `fit`. Without
    it they see the fast weights, as far as those have come since the slow ones followed.
    Training continues from the fast weights, bit for bit as without this callback; so does a
    further `fit` with it. Its place in the list of callbacks does not matter. Weights that
    `Lookahead` does not train, such as the statistics of batch normalisation, are those of the last
    step. After an exception or Ctrl-C the model has the fast weights.

    It is saved with the weights, so that `keras.callbacks.BackupAndRestore` resumes with it.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(kc.optimizers.Lookahead("adam"), loss="mse")
    >>> x = keras.random.normal((64, 2), seed=1)
    >>> slow = kc.callbacks.SlowWeights()
    >>> history = model.fit(x, x[:, :1], validation_split=0.25, callbacks=[slow], verbose=0)

    Raises:
        ValueError: When training begins, if no optimizer of the model is or holds `Lookahead`, if
            another callback swaps the weights too, or if the optimizer keeps an average of its own
            (`use_ema=True`), which Keras puts into the model at the end of `fit`.

    Reference:
        Zhang, Lucas, Hinton and Ba, 2019, "Lookahead Optimizer: k steps forward, 1 step back",
        section 3 (evaluation).
    """

    _saved_as = "slow_weights"
    _gives = "the slow weights"

    def _check_model(self, model):
        if not _lookaheads(optimizers_of(model)):
            raise ValueError(
                "SlowWeights is for a model compiled with `keras_cool.optimizers.Lookahead`, for "
                "example model.compile(keras_cool.optimizers.Lookahead('adam'), loss='mse'). The "
                f"optimizer is {type(unwrap(model.optimizer)).__name__}: leave the callback out."
            )

    def _begin(self, epoch):
        fast, _ = self._fast_and_slow()
        self._state.take_up(fast, [])
        if self._state.swapped.were_set:  # what they were set to is to be trained
            self._state.swapped.forget()

    def _swap_in(self, epoch):
        fast, slow = self._fast_and_slow()
        self._state.swapped.swap_in(fast, backend.snapshots.copies(slow))

    def _fast_and_slow(self):
        """The weights of the model that `Lookahead` trains, and the slow ones of each."""
        found = [o for o in _lookaheads(optimizers_of(self.model)) if o.built]
        fast = [v for lookahead in found for v in trainable_variables_of(lookahead)]
        return fast, [v for lookahead in found for v in lookahead.slow_weights]


def _lookaheads(optimizers):
    found: list = []
    for optimizer in optimizers:
        parts = chain(unwrap(optimizer))
        found += [o for o in parts if isinstance(o, Lookahead)]
        found += _lookaheads(parts[-1].optimizers) if holds_several(parts[-1]) else []
    return list({id(o): o for o in found}.values())


__all__ = ["SlowWeights"]
