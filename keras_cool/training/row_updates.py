"""Tables whose gradient is row-sparse, and updates of the rows that it has."""

import warnings
import weakref

import keras
from keras import ops

from keras_cool import backend
from keras_cool.backend.row_sparse import RowSparse
from keras_cool.gradients import densify
from keras_cool.keras_private import (
    all_layers,
    clip_gradients,
    embedding_table,
    is_of_keras,
    present_gradients,
    slots,
    update_dense,
)
from keras_cool.optimizer_roles import Accumulator, RowWise, check_built_on, gradient_estimator

ROW_WISE = (
    "keras.optimizers.SGD without momentum, keras.optimizers.Adagrad, "
    "keras_cool.optimizers.LazyAdam and keras_cool.optimizers.LazyMomentum"
)
OF_ALL_ROWS = ("weight_decay", "use_ema", "gradient_accumulation_steps", "loss_scale_factor")
_WARNED: weakref.WeakSet = weakref.WeakSet()
CLIPPING = ("clipnorm", "global_clipnorm", "clipvalue")


class RowSparseTables:
    """Which tables of a model are to have row-sparse gradients.

    Args:
        choice: `True`, all tables of `Embedding` layers, or a list of such layers or their names.
    """

    def __init__(self, choice):
        self.choice = choice if choice is True else [_checked_name(layer) for layer in choice]

    def among(self, variables, model):
        """Lists the tables among variables; none where gradients are combined before an optimizer
        has them, of which it warns once."""
        reason = self._why_dense(model)
        if reason is not None:
            warn_of_dense(reason, self)
            return []
        trained = {id(v) for v in variables}
        tables = [embedding_table(layer) for layer in self._layers(model)]
        return [t for t in tables if id(t) in trained and t.constraint is None]

    def _layers(self, model):
        layers = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)]
        if self.choice is True:
            return layers
        unknown = set(self.choice) - {layer.name for layer in layers}
        if unknown:
            raise ValueError(
                f"`row_sparse` names {sorted(unknown)}, and the model has the Embedding layers "
                f"{[layer.name for layer in layers]}. Name some of them, or write row_sparse=True."
            )
        return [layer for layer in layers if layer.name in self.choice]

    def _why_dense(self, model):
        if model.whole_batch_loss and model.microbatch_size is not None:
            return "the gradients of the two passes of `whole_batch_loss` are added up"
        if backend.updates.number_of_replicas() > 1:
            return "the gradients of several replicas are added up"
        method = gradient_estimator(model.optimizer)
        return f"{type(method).__name__} combines several gradients" if method else None


def _checked_name(layer):
    if isinstance(layer, keras.layers.Embedding):
        return layer.name
    if isinstance(layer, str):
        return layer
    raise TypeError(
        "`row_sparse` is True, for all keras.layers.Embedding layers of the model, or a list of "
        f"such layers or of their names. There was {layer!r} among them."
    )


def checked_choice(choice):
    """Returns the `RowSparseTables` that the argument `row_sparse` asks for, or `None`."""
    if choice is None or choice is False:
        return None
    if choice is not True and not isinstance(choice, list | tuple):
        raise TypeError(
            "`row_sparse` is True, for all keras.layers.Embedding layers of the model, or a list "
            f"of such layers or of their names. It was given {choice!r}."
        )
    return RowSparseTables(choice)


def why_dense(optimizer, variables):
    """Says why an optimizer updates all rows of a table, or returns `None`: it need not."""
    name = type(optimizer).__name__
    if isinstance(optimizer, Accumulator):
        return f"{name} adds up the gradients of several batches"
    options = [option for option in OF_ALL_ROWS if getattr(optimizer, option, None)]
    if options:
        return f"`{options[0]}` of {name} acts on all rows"
    if any(getattr(v, "overwrite_with_gradient", False) for v in variables):
        return "some variables are overwritten with their gradients"
    return None if _rule_of(optimizer) else f"{name} updates all rows"


def warn_of_dense(reason, of):
    """Warns that row-sparse gradients are made dense, once for what they are made dense by."""
    if of in _WARNED:
        return
    _WARNED.add(of)
    warnings.warn(
        f"The gradients of embedding tables are made dense, since {reason}. Optimizers that update "
        f"the rows of a batch alone are {ROW_WISE}, without {', '.join(OF_ALL_ROWS[:-1])}.",
        stacklevel=2,
    )


def apply(optimizer, gradients, variables):
    """Lets an optimizer update variables, the tables with `RowSparse` gradients row by row.

    What it does to the rows of a batch is what it does to a dense gradient: clipping, the
    learning rate, its own formula. An optimizer that cannot do so is given dense gradients, with a
    warning.
    """
    if not any(isinstance(g, RowSparse) for g in gradients):
        backend.updates.apply(optimizer, gradients, variables)
        return
    reason = why_dense(optimizer, variables)
    if reason is not None:
        warn_of_dense(reason, optimizer)
    pairs = zip(gradients, variables, strict=True)
    gradients = [
        densify(g, v.value) if _is_dense(g, v, reason is not None) and g is not None else g
        for g, v in pairs
    ]
    if reason is None:
        _update(optimizer, gradients, variables)
    else:
        backend.updates.apply(optimizer, gradients, variables)


def _is_dense(gradient, variable, all_of_them):
    return isinstance(gradient, RowSparse) and (all_of_them or variable.constraint is not None)


def _update(optimizer, gradients, variables):
    """`optimizer.apply`, for some gradients that are row-sparse and an optimizer with a rule."""
    check_built_on(optimizer, variables)
    rule = _rule_of(optimizer)
    gradients, variables = present_gradients(optimizer, gradients, variables)
    clips = any(getattr(optimizer, name, None) for name in CLIPPING)
    if clips or rule is not _sgd:  # which is linear: repeated rows add up by themselves
        gradients = [backend.rows.merged(g) if isinstance(g, RowSparse) else g for g in gradients]
    values = [g.values if isinstance(g, RowSparse) else g for g in gradients]
    values = clip_gradients(optimizer, values)
    dense = []
    for gradient, value, variable in zip(gradients, values, variables, strict=True):
        if isinstance(gradient, RowSparse):
            _update_rows(optimizer, rule, gradient.indices, value, variable)
        else:
            dense.append((value, variable))
    update_dense(optimizer, dense)


def _update_rows(optimizer, rule, indices, values, variable):
    values = ops.cast(values, variable.dtype)
    rate = ops.cast(optimizer.learning_rate, variable.dtype)
    if rule is _sgd:
        backend.rows.add(variable, indices, -rate * values)
        return
    held = [variable, *slots(optimizer, variable)]
    rows, *of_slots = [backend.rows.take(v, indices) for v in held]
    rows, of_slots = rule(optimizer, values, rows, of_slots, rate)
    for v, new in zip(held, [rows, *of_slots], strict=True):
        backend.rows.put(v, indices, new)


def _rule_of(optimizer):
    """The function `rule(optimizer, gradient, rows, slots, rate)` that updates rows, or `None`."""
    if isinstance(optimizer, RowWise):
        return type(optimizer).update_rows
    if is_of_keras(optimizer, keras.optimizers.SGD) and not optimizer.momentum:
        return _sgd
    return _adagrad if is_of_keras(optimizer, keras.optimizers.Adagrad) else None


def _sgd(optimizer, gradient, rows, slots, rate):
    return rows - rate * gradient, slots


def _adagrad(optimizer, gradient, rows, slots, rate):
    (total,) = slots
    total = total + ops.square(gradient)
    return rows - rate * gradient / ops.sqrt(total + optimizer.epsilon), [total]
