"""`Compilation`: what `compile` is told beyond Keras, and what a saved file holds of it."""

import keras

from keras_cool.keras_private import KerasSaveable, ModelBase
from keras_cool.optimizer_roles import accumulators, chain, gradient_estimator
from keras_cool.saved_seeds import SavedSeeds
from keras_cool.training.automatic_size import AUTO, AutomaticSize
from keras_cool.training.loss_shares import LossKinds
from keras_cool.training.microbatches import checked_size
from keras_cool.training.row_updates import RowSparseTables, checked_choice
from keras_cool.training.step import SingleGradient


class Injected:
    """The optimizer that a model was injected with before it is compiled. Keras would track it."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


class SeedsOfModel(KerasSaveable):
    """The random seeds of a model, saved among its weights.

    Args:
        model: The Keras model.
    """

    def __init__(self, model):
        self._seeds = SavedSeeds()
        self._seeds.attach(model)

    def _obj_type(self):
        return "Loss"  # as Keras names the kinds of what it saves

    def save_own_variables(self, store):
        """Saves the seeds; Keras calls it."""
        self._seeds.save(store)

    def load_own_variables(self, store):
        """Loads the seeds; Keras calls it."""
        self._seeds.load(store)


def check_does_not_accumulate(optimizer):
    """Refuses an optimizer that makes one update of several batches, for a loss of whole ones."""
    names = [type(optimizer).__name__] if accumulators(optimizer) else []
    names += [
        f"{type(inner).__name__}(gradient_accumulation_steps=...)"
        for inner in ([] if optimizer is None else chain(optimizer))
        if getattr(inner, "gradient_accumulation_steps", None)
    ]
    if names:
        raise ValueError(
            "A loss of the whole batch (`whole_batch_loss=True`, or `forward` in `value_and_grad`) "
            f"is not a mean over the batches of a window, as {names[0]} takes it. Give `fit` the "
            "large batch, and let the model split it: model.compile('adam', loss=..., "
            "microbatch_size=16, whole_batch_loss=True)."
        )


class Compilation(ModelBase):
    """The part of the mixin that is there before training."""

    # Whether a callback alone has given the model the mixin: what `Accumulate` does on a model with
    # it, weigh the batches and finish the last window, it does not do then.
    _is_plain = False
    _microbatch_size: int | None = None
    _whole_batch_loss = False
    _automatic_size: AutomaticSize | None = None
    _row_sparse: RowSparseTables | None = None
    _single_gradient: SingleGradient | None = None  # of a model with a micro-batch size
    _injected: Injected | None = None
    _seeds: SeedsOfModel | None = None
    _loss_kinds: LossKinds | None = None  # of a model that was injected when it was compiled

    def compile(
        self,
        *args,
        microbatch_size=None,
        memory_limit=None,
        whole_batch_loss=False,
        row_sparse=False,
        **kwargs,
    ):
        """Configures the model for training: `keras.Model.compile`, and the soft batch.

        Args:
            *args: As for `keras.Model.compile`.
            microbatch_size: Integer, `"auto"` or `None`. If given, `fit` computes a batch of any
                size that many samples at a time, on each device, adds up the gradients, and takes
                one step with the gradient of the whole batch. A step whose gradient is not finite
                is then skipped, and counted as `skipped_steps` in the logs. With `"auto"` it is
                the largest size that fits into memory, found in the first step: all samples of the
                batch, or half as many, or a quarter and so on. The size in use is
                `model.microbatch_size`, and `microbatch_size` in the logs. Defaults to `None`: a
                batch is computed at once.
            memory_limit: Integer or `None`. With `microbatch_size="auto"`, the bytes that a step
                may take on each device: the model, the state of its optimizer, the batch, and all
                that is in memory between. Defaults to `None`: what the device has.
            whole_batch_loss: Boolean, for a loss that compares the samples of a batch with each
                other (contrastive, ranking, correlation, Dice over the batch). If `True`, the
                loss is that of the whole batch: `fit` computes the outputs of all micro-batches,
                then the loss and its gradients by the outputs at once, then each micro-batch once
                more (GradCache). It costs one forward pass more, and the memory of the outputs.
                With several replicas the batch is that of all of them. Defaults to `False`: the
                loss is a mean over the samples, or one of Keras' sums.
            row_sparse: Boolean, or a list of `keras.layers.Embedding` layers or of their names. The
                gradients of the tables of these layers, of all of them if `True`, are then
                `keras_cool.RowSparse`, and an optimizer that can do so updates the rows of the
                batch alone: Keras' SGD without momentum and Adagrad,
                `keras_cool.optimizers.LazyAdam` and `LazyMomentum`. Under others, and in
                micro-batches with `whole_batch_loss`, gradients are dense, of which a warning
                tells. Defaults to `False`.
            **kwargs: As for `keras.Model.compile`.

        Raises:
            ValueError: If `microbatch_size` is no positive integer and not `"auto"`, if
                `memory_limit` is no positive integer or `microbatch_size` is not `"auto"`, if
                `whole_batch_loss` is no boolean, if the optimizer accumulates over batches while
                `whole_batch_loss=True`, or if the model has a `train_step` of its own, which would
                not use them.
            TypeError: If `row_sparse` is no boolean and no list of layers or names.

        Reference:
            Gao, Zhang, Han and Callan, 2021, "Scaling Deep Contrastive Learning Batch Size under
            Memory Limited Setup" (`whole_batch_loss`).
        """
        size, automatic, single_gradient = self._split_by(microbatch_size, memory_limit)
        whole_batch_loss = self._checked_choice(whole_batch_loss)
        tables = self._tables_of(row_sparse)
        injected, self._injected = self._injected, None
        if injected is not None and not args and "optimizer" not in kwargs:
            kwargs["optimizer"] = injected.optimizer
        super().compile(*args, **kwargs)
        self._microbatch_size, self._automatic_size = size, automatic
        self._single_gradient = single_gradient
        self._whole_batch_loss = whole_batch_loss
        if whole_batch_loss:
            check_does_not_accumulate(self.optimizer)
        self._row_sparse = tables
        self._loss_kinds = LossKinds()
        self.share_seeds()

    @property
    def microbatch_size(self):
        """The number of samples that are computed at a time, or `None`: all of a batch. `"auto"`
        becomes the size that was found in the first step."""
        if self._automatic_size is not None:
            return self._automatic_size.size or AUTO
        return self._microbatch_size

    @microbatch_size.setter
    def microbatch_size(self, microbatch_size):
        self._set_size(microbatch_size, self.memory_limit if microbatch_size == AUTO else None)

    @property
    def memory_limit(self):
        """The bytes that a step may take on each device under `microbatch_size="auto"`, or `None`:
        what the device has. If it is set, the size is looked for again."""
        return self._automatic_size.memory_limit if self._automatic_size is not None else None

    @memory_limit.setter
    def memory_limit(self, memory_limit):
        self._set_size(self._size_as_given(), memory_limit)

    def _set_size(self, microbatch_size, memory_limit):
        split = self._split_by(microbatch_size, memory_limit)
        self._microbatch_size, self._automatic_size, self._single_gradient = split
        self.train_function = None

    @property
    def row_sparse(self):
        """Which `Embedding` layers have row-sparse gradients: `True`, all of them, `False`, none,
        or a list of their names."""
        return False if self._row_sparse is None else self._row_sparse.choice

    @row_sparse.setter
    def row_sparse(self, row_sparse):
        self._row_sparse = self._tables_of(row_sparse)
        self.train_function = None

    def _tables_of(self, row_sparse):
        tables = checked_choice(row_sparse)
        if tables is not None:
            self.check_no_train_step()
        return tables

    @property
    def whole_batch_loss(self):
        """Whether the loss is computed on the whole batch, and not as a mean over micro-batches."""
        return self._whole_batch_loss

    @whole_batch_loss.setter
    def whole_batch_loss(self, whole_batch_loss):
        self._whole_batch_loss = self._checked_choice(whole_batch_loss)
        self.train_function = None

    def _checked_choice(self, whole_batch_loss):
        """Returns `whole_batch_loss`, if it is a boolean and the model can use it."""
        if not isinstance(whole_batch_loss, bool):
            raise ValueError(
                "`whole_batch_loss` says whether the loss is that of the whole batch: `True` or "
                f"`False`. It was given {whole_batch_loss!r}. The loss itself is the argument "
                "`loss`: model.compile('adam', loss=my_loss, microbatch_size=16, "
                "whole_batch_loss=True)."
            )
        if whole_batch_loss:
            self.check_no_train_step()
            self._is_plain = False
        return whole_batch_loss

    def _size_as_given(self):
        return self._microbatch_size if self._automatic_size is None else AUTO

    def _split_by(self, size, memory_limit=None):
        """Returns the size of micro-batches, checked, what finds it, and what counts their steps:
        all that are needed."""
        is_automatic = isinstance(size, str) and size == AUTO
        if memory_limit is not None and not is_automatic:
            raise ValueError(
                '`memory_limit` is for `microbatch_size="auto"`, which finds the largest size '
                f"that fits. It was given memory_limit={memory_limit!r} and "
                f'microbatch_size={size!r}. Compile with microbatch_size="auto", or leave '
                "`memory_limit` out."
            )
        if size is None:
            return None, None, None
        automatic = AutomaticSize(memory_limit) if is_automatic else None
        size = None if is_automatic else checked_size(size)
        self.check_no_train_step()
        self._is_plain = False  # whoever asks for micro-batches asks for the mixin
        with self.scope_of_variables():
            return size, automatic, SingleGradient()

    def get_compile_config(self):
        """The arguments of `compile`, as a saved file holds them."""
        config = super().get_compile_config()
        # An injected model is saved as the class it was, whose `compile` does not know these.
        saved_as: type = self.__class__
        knows_the_size = issubclass(saved_as, Compilation) and self._has_this_compile()
        if config and self.microbatch_size and knows_the_size:
            config["microbatch_size"] = self._size_as_given()
            if self.memory_limit is not None:
                config["memory_limit"] = self.memory_limit
        if config and self.whole_batch_loss and knows_the_size:
            config["whole_batch_loss"] = True
        if config and self.row_sparse and knows_the_size:
            config["row_sparse"] = self.row_sparse
        return config

    def compile_from_config(self, config):
        """Compiles the model as a saved file says; Keras calls it while it loads one."""
        if not self._has_this_compile():
            super().compile_from_config(config)  # with Keras' advice for a `compile` of one's own
            return
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def share_seeds(self):
        """Lets the model's random seeds be saved: with the state of an optimizer of keras_cool,
        where a model that was injected finds them again, or else with the model."""
        if self._is_plain:
            return
        method = gradient_estimator(self.optimizer)
        # One file holds the seeds once: under a `MultiOptimizer` the first `Accumulate` does.
        ours = [method] if method else accumulators(self.optimizer)[:1]
        for optimizer in ours:
            optimizer.save_seeds_of(self)
        self._seeds = None if ours else SeedsOfModel(self)

    def _has_this_compile(self):
        own = type(self).compile is Compilation.compile
        return own and super().compile.__func__ is keras.Model.compile
