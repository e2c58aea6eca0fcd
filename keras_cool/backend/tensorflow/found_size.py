"""TensorFlow: a training function that finds the size of its micro-batches, for
`microbatch_size="auto"`."""

import itertools
from typing import Any

import keras
import tensorflow as tf

from keras_cool.keras_private import distribution_strategy, eager_build


class FindingTheSize:
    """Keras' training function, with the largest micro-batches that fit.

    A batch that may not fit is taken out of the iterator before the step, which can then run again.

    Args:
        model: The Keras model with the mixin.
        make: A function without arguments that makes Keras' training function for the present size,
            which is a constant in what is compiled.
    """

    def __init__(self, model, make):
        self._model, self._make = model, make
        self._function: Any = None
        self._size: int | None = None  # that it is for
        self._seen: Any = None  # the description of batches like those that have fitted

    def look_again(self):
        """Looks at the next batch, which may be larger: a new training begins."""
        self._seen = None

    def __call__(self, iterator):
        spec = _spec(iterator)
        if spec is not None and spec == self._seen:
            return self._function(iterator)
        batches = list(itertools.islice(iterator, self._model.steps_per_execution))
        if not batches:
            raise StopIteration
        batch = [_of_one_replica(leaf, self._model) for leaf in keras.tree.flatten(batches)]
        if self._model.run_eagerly and distribution_strategy(self._model) is None:
            eager_build(self._model, tf.nest.map_structure(lambda x: x[:1], batches[0]))

        def step():
            if self._size != self._model.microbatch_size:
                self._function, self._size = self._make(), self._model.microbatch_size
            return self._function(_again(batches, spec))

        logs = self._model._automatic_size.run(self._model, batch, step)
        self._seen = spec if _has_one_size(spec) else None
        return logs


def _spec(iterator):
    return iterator.element_spec if isinstance(iterator, tf.data.Iterator) else None


def _has_one_size(spec):
    """Whether all samples that are described so have the same shape."""
    shapes = [getattr(s, "shape", None) for s in tf.nest.flatten(spec)]
    return spec is not None and all(s is not None and None not in s[1:] for s in shapes)


def _of_one_replica(leaf, model):
    strategy = distribution_strategy(model)
    return leaf if strategy is None else strategy.experimental_local_results(leaf)[0]


def _again(batches, spec):
    """An iterator over batches that were taken out of one, described as they were there: what is
    compiled for it serves for the others too."""
    if spec is None:
        return iter(batches)
    datasets = [tf.data.Dataset.from_tensors(batch) for batch in batches]
    whole = datasets[0]
    for dataset in datasets[1:]:
        whole = whole.concatenate(dataset)

    def described(*batch):
        batch = batch if isinstance(spec, tuple) else batch[0]
        return tf.nest.map_structure(_described, batch, spec)

    return iter(whole.map(described))


def _described(tensor, spec):
    if not isinstance(spec, tf.TensorSpec):
        return tensor
    return tf.compat.v1.placeholder_with_default(tensor, spec.shape)
