"""`microbatch_size="auto"`: the largest size of micro-batches that fits, found by itself."""

import math
import re
from numbers import Integral

import keras

from keras_cool import backend
from keras_cool.training.step_state import StepState, variables_of

AUTO = "auto"


class OverLimitError(MemoryError):
    """A step takes more memory than there is for it.

    Args:
        needed: Integer, bytes.
        limit: Integer, bytes.
    """

    def __init__(self, needed, limit):
        super().__init__(f"The step takes {in_words(needed)}, and may take {in_words(limit)}.")


class AutomaticSize:
    """Finds the number of samples that are computed at a time: as many as fit.

    It starts from all samples that a device has of a batch, and halves as long as memory does not
    suffice. A step that has failed runs again on the same batch, from the state before it. Once it
    had to be halved, the size does not grow again.

    Args:
        memory_limit: Integer, the bytes that a step may take on a device, or `None`: all there are.
    """

    def __init__(self, memory_limit=None):
        self.memory_limit = checked_limit(memory_limit)
        self.size = None  # the one in use, or being tried
        self._was_halved = False
        self._run = []  # the shapes of batches that have fitted, the largest ones

    def settle(self, batch, attempt, put_back, devices_of_a_batch=lambda samples: 1):
        """Takes a step on a batch, at the largest size at which it fits.

        Args:
            batch: Nest of tensors, the samples as the first dimension of the first one.
            attempt: A function without arguments that takes the step at the present `size`, and
                raises an error if memory does not suffice.
            put_back: A function without arguments that is called after that.
            devices_of_a_batch: A function of its number of samples that returns the number of
                devices over which it is split.

        Returns:
            What `attempt` has returned.

        Raises:
            MemoryError: If one sample at a time does not fit either. All is as it was then.
        """
        before, samples = self.size, _shapes(batch)[0][0]
        samples //= devices_of_a_batch(samples)
        if not self._was_halved:
            self.size = max(samples, before or 1)
        try:
            while True:
                try:
                    return attempt()
                except Exception as error:
                    if not backend.memory.is_out_of_memory(error):
                        raise
                    if min(self.size, samples) == 1:
                        put_back()
                        raise MemoryError(_nothing_fits(error)) from error
                # Out of there nothing refers to the tensors of the step any more.
                put_back()
                backend.memory.release()
                self.size = -(-min(self.size, samples) // 2)
                self._was_halved = True
        except BaseException:
            self.size, self._was_halved = before, self._was_halved and before is not None
            raise

    def check(self, needed, available=None):
        """Raises an error if a step takes more memory than it may.

        Args:
            needed: Integer, the bytes that it takes on a device.
            available: Integer, the bytes that there are, if `memory_limit` is not given.
        """
        limit = self.memory_limit or available
        if needed > limit:
            raise OverLimitError(needed, limit)

    def run(self, model, batch, step):
        """Takes a step that changes variables: at once if a batch as large has been run before, or
        else as `settle`.

        Args:
            model: The Keras model, built.
            batch: Nest of tensors, those of one device.
            step: A function without arguments that takes the step at the present `size`.
        """
        shapes = _shapes(batch)
        if any(_fits(shapes, run) for run in self._run):
            return step()
        state = StepState(model)

        def attempt():
            if self.memory_limit is None:
                return step()
            held = sum(_bytes(t) for t in (*variables_of(model), *_tensors(batch)))
            result, needed = backend.memory.measured(step, held)
            self.check(needed)
            return result

        result = self.settle(batch, attempt, state.put_back)
        self._run = [*(run for run in self._run if not _fits(run, shapes)), shapes]
        return result


def checked_limit(limit):
    """Returns `memory_limit` as an integer, or `None`."""
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, Integral) or limit < 1:
        raise ValueError(
            "`memory_limit` is the number of bytes that a training step may take on a device: a "
            f"positive integer. It was given {limit!r}. For example, 8 GB: model.compile('adam', "
            "loss='mse', microbatch_size='auto', memory_limit=8 * 10**9)."
        )
    return int(limit)


def in_words(number):
    """A number of bytes, as a message has it."""
    return f"{number / 1e6:,.1f} MB"


def _nothing_fits(error):
    reason = f" {error}" if isinstance(error, OverLimitError) else ""
    return (
        "A training step does not fit into memory, even with one sample at a time "
        f'(`microbatch_size="auto"`).{reason} The model and its optimizer are as they were before '
        "the step. Make the samples or the model smaller, take an optimizer with less state, use "
        'keras.config.set_dtype_policy("mixed_bfloat16"), or give a larger `memory_limit`.'
    )


def _tensors(batch):
    return [leaf for leaf in keras.tree.flatten(batch) if hasattr(leaf, "shape")]


def _shapes(batch):
    return [tuple(t.shape) for t in _tensors(batch)]


def _fits(shapes, others):
    """Whether tensors are no larger than others, in any dimension."""
    return [len(s) for s in shapes] == [len(o) for o in others] and all(
        a <= b for s, o in zip(shapes, others, strict=True) for a, b in zip(s, o, strict=True)
    )


def _bytes(tensor):
    bits = re.search(r"\d+", keras.backend.standardize_dtype(tensor.dtype))
    return math.prod(tensor.shape) * (int(bits[0]) // 8 if bits else 1)
