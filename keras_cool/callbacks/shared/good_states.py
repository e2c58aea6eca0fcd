"""`GoodStates`: states of the training to go back to, the last one and a few older ones."""

import dataclasses

from keras_cool.callbacks.shared.learning_rates import rates_of
from keras_cool.callbacks.shared.training_state import TrainingState

SPACING = 4  # how many times as old each of them may become as the one after it


@dataclasses.dataclass
class KeptState:
    """A state of the training, the epoch that it is from, and learning rates and best loss then.

    `number` counts the good states, in their order.
    """

    state: TrainingState
    epoch: int
    rates: list
    best: float
    number: int = -1


class GoodStates:
    """A short history, the older the sparser: with three states up to 1, 4 and 20 looks old.

    A state that was reached just after the learning rate has run off may pass for good, and is
    none: trouble comes back at once, and an older one is needed.

    Args:
        count: Integer, how many states there are at most.
        path: `Path` or `None`. If given they are in files, the newest one in this, and else in
            copies on the devices.
    """

    def __init__(self, count, path):
        self._path = path
        self._places: list = [None] * count
        self._added = 0
        self._last: KeptState | None = None

    def exist(self):
        """Whether there is one."""
        return self._places[0] is not None

    def keep(self, model, epoch, best):
        """Returns the present state of a training, not yet as a good one."""
        path = None if self._path is None else self._file("unconfirmed")
        return KeptState(TrainingState(model, path), epoch, rates_of(model), best)

    def add(self, kept):
        """Adds a state that has proved good, as the newest one."""
        kept.number = self._added
        self._added += 1
        places = self._places
        for i in reversed(range(1, len(places))):
            is_due = places[i] is None or self._added % SPACING**i == 0
            if is_due and places[i - 1] is not None:
                places[i] = places[i - 1]
        places[0] = kept
        self._name_files()

    def put_back(self, further=False):
        """Puts the newest one back, or an older one than the last time if that was not far enough.

        Newer ones are dropped. The oldest one stays, however often it is put back.

        Args:
            further: Boolean, whether trouble has come back at once.

        Returns:
            The `KeptState`, or `None` if there is none.
        """
        kept = [k for k in self._places if k is not None]
        if not kept:
            return None
        chosen = kept[0]
        if further and self._last is not None:
            older = [k for k in kept if k.number < self._last.number]
            chosen = older[0] if older else kept[-1]
        self._places = [k if k and k.number <= chosen.number else None for k in self._places]
        self._places[0] = self._last = chosen
        self._name_files()
        chosen.state.put_back()
        return chosen

    def has_older(self):
        """Whether there is an older one than the one that was put back."""
        return any(k and self._last and k.number < self._last.number for k in self._places)

    def clear(self):
        """Drops them all, with their files."""
        self._places = [None] * len(self._places)
        self._last = None
        if self._path is not None:
            for place in ("unconfirmed", *range(len(self._places))):
                self._file(place).unlink(missing_ok=True)

    def _name_files(self):
        if self._path is None:
            return
        # The oldest first: it leaves its file to the one that comes to its place.
        for i in reversed(range(len(self._places))):
            kept = self._places[i]
            if kept is not None and not any(kept is other for other in self._places[:i]):
                kept.state.move(self._file(i))

    def _file(self, place):
        return self._path.with_name(f"{self._path.stem}-{place}.npz") if place else self._path
