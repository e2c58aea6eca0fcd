"""All that is borrowed from Keras' private API; `tests/test_keras_private.py` guards each piece."""

import contextlib
import copy
import functools
import itertools
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

import keras
from keras.src import backend as keras_backend
from keras.src.backend.common.dtypes import BIT64_TO_BIT32_DTYPE
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope
from keras.src.layers.core import embedding as keras_embedding
from keras.src.losses import loss as keras_loss
from keras.src.losses import losses as keras_losses
from keras.src.losses.loss import apply_mask
from keras.src.losses.loss import unscale_loss_for_distribution as unscaled_for_replicas
from keras.src.models.functional import Functional
from keras.src.models.model import functional_init_arguments
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.regularizers import regularizers as keras_regularizers
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.trainers.data_adapters import data_adapter_utils
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

# Keras' own trainer of the backend in use: the class right below `keras.Model` that has `fit`.
Trainer = next(base for base in keras.Model.__bases__ if "fit" in vars(base))

if TYPE_CHECKING:
    from keras import Model as ModelBase  # what a mixin calls of the model that it is part of
else:
    ModelBase = object


class OverlayScope(keras.StatelessScope):
    """A `keras.StatelessScope` that lies over the scope around it.

    Reads that its own mapping does not answer go to the scope around it, where a plain
    `StatelessScope` goes to the variable's stored value, past the outer scope. What is assigned
    inside is kept in `updates`, in order of first assignment. The losses that layers add inside
    are known by their layers, and those from outside stay as they are: Keras knows them by the ids
    of tensors, which may be freed, and a call in an inner scope forgets those of the outer one.

    Attributes:
        variables: List of the variables of the mapping.
        on_assigning: A function of the place of a variable in the mapping and of the value that it
            is assigned, which gives the value that it has from then on; or `None`.
        on_reading: A function of the place of a variable in the mapping that is called where it is
            read, or `None`.
        keeps_assigned: Boolean, whether `updates` has what variables of the mapping were assigned.
        others_read: Dictionary of the variables that were read and are not of the mapping, by id.
    """

    on_assigning = None
    on_reading = None
    keeps_assigned = True

    def __init__(self, state_mapping=()):
        state_mapping = list(state_mapping)
        super().__init__(state_mapping, collect_losses=True, initialize_variables=False)
        self.others_read = {}
        self._assigned = {}
        self._added_losses = {}
        self.variables = [variable for variable, _ in state_mapping]
        self._mapped = {id(variable): i for i, variable in enumerate(self.variables)}

    def add_losses_of(self, layer, losses):
        """Notes the losses that a layer adds."""
        self._added_losses.setdefault(id(layer), (layer, []))[1].extend(losses)

    def losses_of(self, layer):
        """The losses that a layer has added since it was last called, a list of tensors."""
        return list(self._added_losses.get(id(layer), (layer, []))[1])

    @property
    def added_losses(self):
        """The losses that layers have added inside: a list of pairs, a layer and a tensor."""
        added = self._added_losses.values()
        return [(layer, loss) for layer, losses in added for loss in losses]

    def forget_losses_of(self, layer):
        """Forgets the losses that a layer has added."""
        self._added_losses.pop(id(layer), None)

    def get_current_value(self, variable):
        if NotedReads.of:
            NotedReads.note(variable)
        value = super().get_current_value(variable)
        if id(variable) not in self._mapped:
            self.others_read[id(variable)] = variable
        elif self.on_reading is not None:
            self.on_reading(self._mapped[id(variable)])
        if value is None and self.original_scope is not None:
            return self.original_scope.get_current_value(variable)
        return value

    def add_update(self, update):
        variable, value = update
        self._assigned[id(variable)] = variable
        if self.on_assigning is not None and id(variable) in self._mapped:
            update = variable, self.on_assigning(self._mapped[id(variable)], value)
        super().add_update(update)

    @property
    def updates(self):
        """The `(variable, value)` pairs that were assigned inside."""
        return [
            (v, super(OverlayScope, self).get_current_value(v))
            for key, v in self._assigned.items()
            if self.keeps_assigned or key not in self._mapped
        ]


def present_overlay():
    """The `OverlayScope` that is the innermost scope, or `None`."""
    scope = get_stateless_scope() if in_stateless_scope() else None
    return scope if isinstance(scope, OverlayScope) else None


def _with_losses_by_scope(cls):
    """Lets layers keep the losses that they add inside an `OverlayScope` in that scope."""
    add_loss, get_own, clear = cls.add_loss, cls._get_own_losses, cls._clear_losses

    @functools.wraps(add_loss)
    def add_loss_to_scope(self, loss):
        scope = present_overlay()
        if scope is None:
            add_loss(self, loss)
            return
        known = set(self._loss_ids)
        add_loss(self, loss)
        self._loss_ids.intersection_update(known)
        scope.add_losses_of(self, keras.tree.flatten(loss))

    @functools.wraps(get_own)
    def get_own_of_scope(self):
        scope = present_overlay()
        return get_own(self) if scope is None else scope.losses_of(self)

    @functools.wraps(clear)
    def clear_in_scope(self):
        scope = present_overlay()
        if scope is None:
            clear(self)
            return
        scope.forget_losses_of(self)
        for layer in self._layers:
            layer._clear_losses()

    cls.add_loss, cls._get_own_losses = add_loss_to_scope, get_own_of_scope
    cls._clear_losses = clear_in_scope


_with_losses_by_scope(keras.Layer)


class NotedReads:
    """A context that notes in `noted` whether an `OverlayScope` is asked for a variable.

    Args:
        variable: The `keras.Variable`.
    """

    of: dict = {}  # noqa: RUF012  # the open contexts of each variable, by its id

    def __init__(self, variable):
        self.noted = False
        self._key = id(variable)

    def __enter__(self):
        self.of.setdefault(self._key, []).append(self)

    def __exit__(self, *exception):
        self.of[self._key].remove(self)
        if not self.of[self._key]:
            del self.of[self._key]

    @classmethod
    def note(cls, variable):
        """Notes a read of `variable`."""
        for context in cls.of.get(id(variable), ()):
            context.noted = True


class _InPlaceOfKeras:
    """A context in which Keras calls a function of one's own in place of its own one.

    It holds for the thread that entered it: replicas of `tf.distribute` are threads, which may
    enter and leave in any order. Keras' own function is in its place again once all have left.
    A subclass puts into its place what asks `_innermost`, and takes it out again.

    Args:
        function: The function.
    """

    _local: threading.local
    _lock: threading.Lock
    _entered: int

    def __init_subclass__(cls):
        cls._local, cls._lock, cls._entered = threading.local(), threading.Lock(), 0

    def __init__(self, function):
        self._function = function

    def __enter__(self):
        self._outer = self._innermost()
        self._local.function = self._function
        with self._lock:
            type(self)._entered += 1
            self._put_in()

    def __exit__(self, *exception):
        self._local.function = self._outer
        with self._lock:
            type(self)._entered -= 1
            if not self._entered:
                self._take_out()

    def _put_in(self):
        raise NotImplementedError

    def _take_out(self):
        raise NotImplementedError

    @classmethod
    def _innermost(cls):
        """The function of the innermost context of this thread, or `None`."""
        return getattr(cls._local, "function", None)


class ReducingLosses(_InPlaceOfKeras):
    """A context in which each `keras.losses.Loss` reduces its values by a function of one's own:
    `reduce(keras_reduction, values, sample_weight, mask, reduction, dtype)` returns the loss.
    `keras_reduction` takes the arguments after it."""

    _keras_reduction = staticmethod(keras_loss.reduce_weighted_values)

    def _put_in(self):
        keras_loss.reduce_weighted_values = self._reduce_weighted_values

    def _take_out(self):
        keras_loss.reduce_weighted_values = self._keras_reduction

    @classmethod
    def _reduce_weighted_values(
        cls, values, sample_weight=None, mask=None, reduction="sum_over_batch_size", dtype=None
    ):
        arguments = (values, sample_weight, mask, reduction, dtype)
        reduce = cls._innermost()
        if reduce is None:
            return cls._keras_reduction(*arguments)
        return reduce(cls._keras_reduction, *arguments)


class LossesOfOneReplica:
    """A context in which no loss is divided by the number of replicas: each has the whole batch.

    It holds for the thread that entered it, as `ReducingLosses` does.
    """

    _names = ("scale_loss_for_distribution", "unscale_loss_for_distribution")
    _local = threading.local()

    def __enter__(self):
        self._local.depth = getattr(self._local, "depth", 0) + 1

    def __exit__(self, *exception):
        self._local.depth -= 1

    @classmethod
    def heed(cls, function):
        """Returns a function of a loss that leaves it as it is in this context."""

        @functools.wraps(function)
        def heeding(value):
            return value if getattr(cls._local, "depth", 0) else function(value)

        return heeding


for _name in LossesOfOneReplica._names:
    setattr(keras_loss, _name, LossesOfOneReplica.heed(getattr(keras_loss, _name)))


class SquaringLosses(_InPlaceOfKeras):
    """A context in which the losses and regularisers of Keras square by a function of one's own, in
    place of `keras.ops.square`."""

    _keras_ops = keras_losses.ops
    _modules = (keras_losses, keras_regularizers)

    def _put_in(self):
        for module in self._modules:
            module.ops = self._ops

    def _take_out(self):
        for module in self._modules:
            module.ops = self._keras_ops

    @classmethod
    def square(cls, x):
        """Squares a tensor as the innermost context of this thread does."""
        return (cls._innermost() or cls._keras_ops.square)(x)

    class _Ops:
        """The `keras.ops` of these modules, with another `square`."""

        def __getattr__(self, name):
            return getattr(SquaringLosses._keras_ops, name)

        def square(self, x):
            return SquaringLosses.square(x)

    _ops = _Ops()


class GatheringRows(_InPlaceOfKeras):
    """A context in which `keras.layers.Embedding` looks up rows by a function of one's own:
    `gather(table, indices)` of a `keras.Variable` and a tensor of integers returns the rows, or
    `None` to have Keras look them up."""

    _keras_ops = keras_embedding.ops

    def _put_in(self):
        keras_embedding.ops = self._ops

    def _take_out(self):
        keras_embedding.ops = self._keras_ops

    @classmethod
    def take(cls, x, indices, axis=None):
        """Takes rows as the innermost context of this thread does."""
        gather = cls._innermost()
        rows = None
        if gather is not None and isinstance(x, keras.Variable) and axis == 0:
            rows = gather(x, indices)
        return cls._keras_ops.take(x, indices, axis=axis) if rows is None else rows

    class _Ops:
        """The `keras.ops` of the embedding layer, with another `take`."""

        def __getattr__(self, name):
            return getattr(GatheringRows._keras_ops, name)

        def take(self, x, indices, axis=None):
            return GatheringRows.take(x, indices, axis)

    _ops = _Ops()


class ComputingMoments(_InPlaceOfKeras):
    """A context in which Keras on TensorFlow computes mean and variance by a function of one's own:
    `moments(x, axes, keepdims)`."""

    _of_keras: Any = getattr(keras_backend.nn, "_compute_moments", None)

    def _put_in(self):
        keras_backend.nn._compute_moments = self._compute_moments

    def _take_out(self):
        keras_backend.nn._compute_moments = ComputingMoments._of_keras

    @classmethod
    def _compute_moments(cls, x, axes, keepdims):
        return (cls._innermost() or ComputingMoments._of_keras)(x, axes, keepdims)


class ResizingImages(_InPlaceOfKeras):
    """A context in which Keras resizes images by a function of one's own:
    `resize(keras_resize, images, *args, **kwargs)`. `keras_resize` takes the arguments after it."""

    _of_keras = staticmethod(keras_backend.image.resize)

    def _put_in(self):
        keras_backend.image.resize = self._resize

    def _take_out(self):
        keras_backend.image.resize = ResizingImages._of_keras

    @classmethod
    def _resize(cls, *args, **kwargs):
        resize = cls._innermost()
        if resize is None:
            return cls._of_keras(*args, **kwargs)
        return resize(cls._of_keras, *args, **kwargs)


class ComputingAgain(_InPlaceOfKeras):
    """A context in which `keras.remat` is a function of one's own, of the function whose tensors
    are to be computed again in the backward pass."""

    _of_keras = staticmethod(keras_backend.core.remat)

    def _put_in(self):
        keras_backend.core.remat = self._remat

    def _take_out(self):
        keras_backend.core.remat = ComputingAgain._of_keras

    @classmethod
    def _remat(cls, function):
        return (cls._innermost() or cls._of_keras)(function)


class Writing(_InPlaceOfKeras):
    """A context in which Keras on TensorFlow assigns to its variables, and decays weights, inside
    of the context that a function of one's own returns."""

    _of_keras: Any = keras_backend.Variable._direct_assign
    _optimizer: Any = next(
        c for c in keras.optimizers.Optimizer.__mro__ if "_apply_weight_decay" in vars(c)
    )
    _decay_of_keras: Any = _optimizer._apply_weight_decay

    def _put_in(self):
        keras_backend.Variable._direct_assign = _assign_in_context
        Writing._optimizer._apply_weight_decay = _decay_in_context

    def _take_out(self):
        keras_backend.Variable._direct_assign = Writing._of_keras
        Writing._optimizer._apply_weight_decay = Writing._decay_of_keras

    @classmethod
    def context(cls):
        """The context in which to write."""
        return (cls._innermost() or contextlib.nullcontext)()


def _assign_in_context(variable, value):
    with Writing.context():
        return Writing._of_keras(variable, value)


def _decay_in_context(optimizer, variables):
    with Writing.context():
        return Writing._decay_of_keras(optimizer, variables)


def calls_as_here():
    """Returns a function that returns a context in which layers are called as here: in the same
    mode, that of training or not."""
    present = get_global_attribute("current_call_ctx")

    @contextlib.contextmanager
    def context():
        outer = get_global_attribute("current_call_ctx")
        set_global_attribute("current_call_ctx", present)
        try:
            yield
        finally:
            set_global_attribute("current_call_ctx", outer)

    return context


def without_gradients():
    """A context in which no gradients are taken, and `keras.remat` has nothing to do. What Keras
    does on TensorFlow fails in a graph where the function has keyword arguments."""
    return ComputingAgain(lambda function: function)


def promote_to_float64():
    """Ends Keras' cast of float64 results down to float32, for the whole process.

    Keras' promotion looks every result up in this dictionary, at each call.
    """
    BIT64_TO_BIT32_DTYPE.update(float64="float64", complex128="complex128")


def promotes_to_float64():
    """Whether float64 results stay in float64."""
    return all(BIT64_TO_BIT32_DTYPE[name] == name for name in ("float64", "complex128"))


def in_layer_call():
    """Whether a layer, or a model, is being called."""
    return get_global_attribute("current_call_ctx") is not None


def forward(model, x):
    """The model's training-mode output, called as Keras' own `train_step` calls it."""
    return model(x, training=True) if model._call_has_training_arg else model(x)


def training_loss(model, x, y, y_pred, sample_weight):
    """The model's loss with all that `add_loss` and regularisers add, as Keras' `train_step`."""
    return model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)


def measures_outputs(model):
    """Whether the metrics of a step depend on the outputs: those of `compile` do, and those of a
    `compute_metrics` of one's own may."""
    own = type(model).compute_metrics is not Trainer.compute_metrics
    return own or model._compile_metrics is not None


def loss_tracker(model):
    """The metric that holds the running mean of the loss."""
    return model._loss_tracker


def batch_size(x):
    """The number of samples in a batch, read as Keras' own `train_step` reads it."""
    return keras.ops.shape(next(leaf for leaf in keras.tree.flatten(x) if leaf is not None))[0]


def symbolic_build(model, iterator=None, data_batch=None):
    """Creates the variables of model, metrics, loss and optimizer without running a step."""
    with without_gradients():
        model._symbolic_build(iterator=iterator, data_batch=data_batch)


def eager_build(model, data):
    """Creates the variables of model, metrics, loss and optimizer by a call on a batch, outside of
    training: nothing but the variables comes of it."""
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    unbuilt = [
        part
        for part in (model._compile_metrics, model._compile_loss)
        if part is not None and not part.built
    ]
    if unbuilt or not all(layer.built for layer in all_layers(model)):
        y_pred = model(x, training=False) if model._call_has_training_arg else model(x)
        for part in unbuilt:
            part.build(y, y_pred)
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def distribution_strategy(model):
    """The `tf.distribute` strategy that a model was made under, or `None`."""
    return model._distribute_strategy


def all_layers(model):
    """The model and its layers, nested ones included."""
    return list(model._flatten_layers())


def learning_rate_variable(optimizer):
    """The variable that holds a constant learning rate, or `None` where there is a schedule."""
    rate = getattr(optimizer, "_learning_rate", None)
    return rate if isinstance(rate, keras.Variable) else None


def learning_rate_schedule(optimizer):
    """The learning-rate schedule of an optimizer, or what else it calls for its rate, or `None`
    where that is a constant."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    rate = getattr(optimizer, "_learning_rate", None)
    return rate if callable(rate) else None


def loss_arguments(loss):
    """What one of Keras' losses hands to its function, a dictionary: the `delta` of `Huber`."""
    return getattr(loss, "_fn_kwargs", {}) if isinstance(loss, keras.losses.Loss) else {}


def running_fit():
    """The `CallbackList` and the iterator over an epoch of the `fit` that is calling a callback, or
    `None`: none is."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals
        callbacks, iterator = found.get("callbacks"), found.get("epoch_iterator")
        if isinstance(callbacks, keras.callbacks.CallbackList) and iterator is not None:
            return callbacks, iterator
        frame = frame.f_back
    return None


def is_validation(arguments):
    """Whether it is `fit` that calls `evaluate` with these keyword arguments."""
    return bool(arguments.get("_use_cached_eval_dataset"))


def call_in_order(callbacks):
    """Lets a `CallbackList` call its callbacks after a batch at once, and not from a thread beside
    the next step, as it does with a single callback that is not in a list."""
    callbacks._async_train = False


def can_be_read_again(epoch_iterator):
    """Whether the data of a `fit` can be read once more: those of a Python generator cannot."""
    return not isinstance(epoch_iterator.data_adapter, GeneratorDataAdapter)


def batches_again(epoch_iterator):
    """An iterable of the batches of an epoch of `fit`, read anew, beside the reading of `fit`.

    Arrays are shuffled as `fit` does it, with the random generators of the process. On TensorFlow
    they come from the host: reading the dataset of `fit` once more would change the order in which
    that goes on. The batches of a `PyDataset` come in their order, without its workers.
    """
    adapter, count = epoch_iterator.data_adapter, epoch_iterator.num_batches
    if isinstance(adapter, (ArrayDataAdapter, PyDatasetAdapter)):
        epoch_iterator = copy.copy(epoch_iterator)
        epoch_iterator.data_adapter = _OnHost(adapter)
        if hasattr(epoch_iterator, "_distributed_dataset"):
            epoch_iterator._distributed_dataset = epoch_iterator.data_adapter.get_numpy_iterator()
    return itertools.islice(epoch_iterator._get_iterator(), count)


class _OnHost:
    """Reads arrays, or a `PyDataset` one batch after another."""

    def __init__(self, adapter):
        self._adapter = adapter

    def get_numpy_iterator(self):
        return self._read("get_numpy_iterator")

    def get_jax_iterator(self):
        return self._read("get_jax_iterator")

    def get_torch_dataloader(self):
        return self._read("get_torch_dataloader")

    def _read(self, method):
        if isinstance(self._adapter, ArrayDataAdapter):
            return getattr(self._adapter, method)()
        return getattr(data_adapter_utils, method)(self._batches())

    def _batches(self):
        data, count = self._adapter.py_dataset, self._adapter.num_batches
        for i in itertools.count() if count is None else range(count):
            yield self._adapter._standardize_batch(data[i])


def own_generators(epoch_iterator):
    """The generators of PyTorch that a `DataLoader` given to `fit` has for itself."""
    loader = getattr(epoch_iterator.data_adapter, "_dataloader", None)
    samplers = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
    samplers += [getattr(sampler, "sampler", None) for sampler in samplers]
    found = [getattr(holder, "generator", None) for holder in (loader, *samplers)]
    return list({id(g): g for g in found if hasattr(g, "get_state")}.values())


def unseeded_generator():
    """The `SeedGenerator` of `keras.random` where no seed is given, or `None`: not drawn yet."""
    return get_global_attribute(GLOBAL_SEED_GENERATOR)


def set_unseeded_generator(generator):
    """Puts back what `unseeded_generator` gave."""
    set_global_attribute(GLOBAL_SEED_GENERATOR, generator)


def is_seed_state(variable):
    """Whether a variable holds the state of a `keras.random.SeedGenerator`."""
    return variable.name == "seed_generator_state"


def trainable_variables_of(optimizer):
    """The variables that an optimizer was built on."""
    return optimizer._trainable_variables


def is_trained_by(optimizer, variable):
    """Whether an optimizer was built on a variable."""
    return optimizer._var_key(variable) in optimizer._trainable_variables_indices


def variable_layout(variable):
    """How `keras.distribution` lays a variable out over the devices, or `None`."""
    return getattr(variable, "_layout", None)


def held_value(variable):
    """The tensor that a variable holds, or `None` while a training loop on JAX has it."""
    return variable._value


def second_moment(optimizer, variable):
    """The running mean of the squared gradient of Adam, AdamW, Nadam, Lamb and RMSprop."""
    return _slot(optimizer, optimizer._velocities, variable)


def largest_second_moment(optimizer, variable):
    """The largest second moment so far, of Adam and AdamW with `amsgrad=True`."""
    return _slot(optimizer, optimizer._velocity_hats, variable)


def mean_gradient(optimizer, variable):
    """The running mean of the gradient of RMSprop with `centered=True`."""
    return _slot(optimizer, optimizer._average_gradients, variable)


def sum_of_squares(optimizer, variable):
    """Adagrad's sum of the squared gradients."""
    return _slot(optimizer, optimizer._accumulators, variable)


def running_squares(optimizer, variable):
    """Adadelta's running means of the squared gradient and of the squared change."""
    gradients = _slot(optimizer, optimizer._accumulated_grads, variable)
    return gradients, _slot(optimizer, optimizer._accumulated_delta_vars, variable)


def infinity_norm(optimizer, variable):
    """The exponentially weighted infinity norm of Adamax."""
    return _slot(optimizer, optimizer._u, variable)


def _slot(optimizer, slots, variable):
    return slots[variable_index(optimizer, variable)].value


def variable_index(optimizer, variable):
    """The place of a variable among those that an optimizer was built on."""
    return optimizer._get_variable_index(variable)


def slots(optimizer, variable):
    """The variables in which an optimizer keeps what it knows of one that it trains, but for the
    moving average of that."""
    optimizer = optimizer_of(optimizer, variable)
    place, count = variable_index(optimizer, variable), len(optimizer._trainable_variables)
    averages = getattr(optimizer, "_model_variables_moving_average", None)
    lists = [
        value
        for name, value in vars(optimizer).items()
        if isinstance(value, list)
        and name not in ("_variables", "_trainable_variables")
        and value is not averages
        and len(value) == count
    ]
    # An optimizer may have the same variable in two lists (Muon's momentums).
    found = [value[place] for value in lists if isinstance(value[place], keras.Variable)]
    return list({id(v): v for v in found}.values())


def moving_average(optimizer, variable):
    """The moving average that an optimizer keeps of a variable (`use_ema=True`), or `None`."""
    optimizer = optimizer_of(optimizer, variable)
    if not optimizer.use_ema:
        return None
    return optimizer._model_variables_moving_average[variable_index(optimizer, variable)]


def embedding_table(layer):
    """The variable that an `Embedding` layer looks rows up in, or `None`: it is not built."""
    return getattr(layer, "_embeddings", None)


def is_of_keras(optimizer, kind):
    """Whether an optimizer is of a class of Keras, and not of a subclass from elsewhere."""
    return isinstance(optimizer, kind) and type(optimizer).__module__.startswith("keras.src.")


def present_gradients(optimizer, gradients, variables):
    """The gradients that are not `None`, and their variables; an optimizer warns of the others."""
    return optimizer._filter_empty_gradients(gradients, variables)


def clip_gradients(optimizer, gradients):
    """The gradients as an optimizer clips them."""
    return optimizer._clip_gradients(gradients)


def update_dense(optimizer, pairs):
    """What `optimizer.apply` does with pairs of gradients and variables after clipping, where there
    is no weight decay, average of weights or accumulation; and counts the update."""
    gradients, variables = [g for g, _ in pairs], [v for _, v in pairs]
    if pairs:
        optimizer._backend_update_step(gradients, variables, optimizer.learning_rate)
    for variable in variables:
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))
    optimizer._iterations.assign_add(1)


def holds_several(optimizer):
    """Whether an optimizer is a `MultiOptimizer`, which Keras has from 3.15 on."""
    return isinstance(optimizer, getattr(keras.optimizers, "MultiOptimizer", ()))


def optimizer_of(optimizer, variable):
    """The optimizer itself, or the one inside a `MultiOptimizer` that a variable is for."""
    if holds_several(optimizer):
        return optimizer.optimizers[optimizer._var_to_optimizer_idx[optimizer._var_key(variable)]]
    return optimizer


def velocities(optimizer):
    """The variables of an optimizer that hold its learning rate as a factor: sums of its steps."""
    if isinstance(optimizer, keras.optimizers.SGD):
        return list(getattr(optimizer, "momentums", []))
    if isinstance(optimizer, keras.optimizers.RMSprop):
        return list(getattr(optimizer, "_momentums", []))
    return []


def set_compiled_optimizer(model, optimizer):
    """Puts `optimizer` into a model that is compiled already, and into the config it saves."""
    model.optimizer = optimizer
    model._compile_config.config["optimizer"] = optimizer


__all__ = [
    "ComputingAgain",
    "ComputingMoments",
    "Functional",
    "GatheringRows",
    "KerasSaveable",
    "LossesOfOneReplica",
    "ModelBase",
    "NotedReads",
    "OverlayScope",
    "ReducingLosses",
    "ResizingImages",
    "Trainer",
    "Writing",
    "all_layers",
    "apply_mask",
    "batch_size",
    "batches_again",
    "call_in_order",
    "calls_as_here",
    "can_be_read_again",
    "clip_gradients",
    "distribution_strategy",
    "eager_build",
    "embedding_table",
    "forward",
    "functional_init_arguments",
    "get_keras_mask",
    "held_value",
    "holds_several",
    "in_layer_call",
    "in_stateless_scope",
    "infinity_norm",
    "is_of_keras",
    "is_seed_state",
    "is_trained_by",
    "is_validation",
    "largest_second_moment",
    "learning_rate_schedule",
    "learning_rate_variable",
    "loss_tracker",
    "mean_gradient",
    "measures_outputs",
    "moving_average",
    "optimizer_of",
    "own_generators",
    "present_gradients",
    "present_overlay",
    "promote_to_float64",
    "promotes_to_float64",
    "running_fit",
    "running_squares",
    "second_moment",
    "set_compiled_optimizer",
    "set_keras_mask",
    "set_unseeded_generator",
    "slots",
    "sum_of_squares",
    "symbolic_build",
    "trainable_variables_of",
    "training_loss",
    "unscaled_for_replicas",
    "unseeded_generator",
    "update_dense",
    "variable_index",
    "variable_layout",
    "velocities",
    "without_gradients",
]
