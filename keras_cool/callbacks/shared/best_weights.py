"""`BestWeights`: the weights that a model is to have again, in a file or in memory."""

import numpy as np
from keras import ops

from keras_cool.callbacks.shared.files import replacing
from keras_cool.callbacks.shared.saved_state import SavedState


class BestWeights:
    """Keeps the weights of a model, for others in a file and for its own return.

    Args:
        path: `Path` or `None`: the file, `.keras` or `.weights.h5`.
        returns: Boolean, whether `restore` is to give them back to the model.
    """

    def __init__(self, path, returns):
        self._path = path
        self._returns = returns
        self._weights = None

    def keep(self, model):
        """Keeps what the weights are now."""
        if self._path is not None:
            with replacing(self._path) as new:
                model.save(new) if new.suffix == ".keras" else model.save_weights(new)
        elif self._returns:
            self._weights = [np.array(w) for w in model.get_weights()]  # copies

    def exist(self):
        """Whether all that was kept is there, or nothing was to be kept."""
        if self._path is not None:
            return self._path.exists()
        return self._weights is not None or not self._returns

    def restore(self, model):
        """Restores the weights of the model, if they were kept for that."""
        if not self._returns:
            return
        if self._path is None:
            model.set_weights(self._weights)
            return
        # The file has the optimizer, the seeds and what callbacks know as well: all that stays.
        weights = {id(v) for v in model.weights}
        others = [v for v in [*model.variables, *model.optimizer.variables] if id(v) not in weights]
        values = [np.array(ops.convert_to_numpy(v)) for v in others]
        with SavedState.left_as_it_is():
            model.load_weights(self._path)
        for variable, value in zip(others, values, strict=True):
            variable.assign(value)

    def forget(self):
        """Lets go of the weights in memory."""
        self._weights = None
