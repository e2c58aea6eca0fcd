"""JAX: a training step whose memory is known before it runs, for `microbatch_size="auto"`."""

import os

import jax
import numpy as np

from keras_cool.backend.jax import memory
from keras_cool.backend.jax.devices import devices_of_a_batch


class PlannedStep:
    """A compiled training step, with the largest micro-batches that fit.

    XLA plans the memory of a step when it compiles it: sizes that do not fit never run. The step
    that was compiled is the one that trains, so that each size is compiled once.

    Args:
        step: Keras' training step, compiled by `jax.jit`, its state donated.
        automatic_size: The `AutomaticSize` of the model.
        put_back: A function of the values of a state that gives them back to the model.
    """

    def __init__(self, step, automatic_size, put_back):
        self._step = step
        self._automatic = automatic_size
        self._put_back = put_back
        self._compiled = {}
        self._size = None  # that of the compiled steps

    def __call__(self, state, data):
        leaves, structure = jax.tree.flatten(data)
        key = structure, tuple((x.shape, str(x.dtype), getattr(x, "sharding", 0)) for x in leaves)
        if key in self._compiled and self._size == self._automatic.size:
            return self._compiled[key](state, data)
        return self._first(state, data, key)

    def _first(self, state, data, key):
        """The first step on batches of these shapes; it fails without loss."""
        kept = jax.tree.map(np.array, state)  # on the host: a step that fails has lost its state
        present = state

        def attempt():
            self._forget_other_sizes()
            if key not in self._compiled:
                self._compiled[key] = self._planned(present, data)
            return memory.finished(self._compiled[key](present, data))  # or it fails later

        def put_back():
            nonlocal present
            self._compiled.pop(key, None)
            present = jax.tree.map(_as_it_was, present, kept)

        try:
            return self._automatic.settle(data, attempt, put_back, devices_of_a_batch)
        except BaseException:
            put_back()
            self._put_back(present)
            raise

    def _forget_other_sizes(self):
        if self._size != self._automatic.size:
            self._compiled, self._size = {}, self._automatic.size
            self._step.clear_cache()  # it was traced with another size

    def _planned(self, state, data):
        compiled = self._step.lower(state, data).compile()
        self._automatic.check(_planned_bytes(compiled), _available_bytes(state))
        return compiled


def _as_it_was(value, kept):
    return jax.device_put(kept, value.sharding) if value.is_deleted() else value


def _planned_bytes(compiled):
    """The bytes that a compiled step takes on each device: arguments, results, and all between."""
    plan = compiled.memory_analysis()
    if plan is None:  # not on every device
        return 0
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return plan.argument_size_in_bytes + results + plan.temp_size_in_bytes


def _available_bytes(state):
    """The bytes that a step may take on a device: all that nothing else has. Of a device that does
    not tell, a CPU, it is the memory of the machine."""
    arrays = jax.tree.leaves(state)
    device = min(arrays[0].devices(), key=lambda d: d.id)
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    own = sum(s.data.nbytes for a in arrays for s in a.addressable_shards if s.device == device)
    return stats["bytes_limit"] - max(0, stats["bytes_in_use"] - own)
