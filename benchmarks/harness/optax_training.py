"""Trains a Keras model with optax on JAX: how exact `optax.MultiSteps` is."""

import jax
import keras
import numpy as np
import optax
from keras import ops

from harness import soft_batch_rows as table

NO_TWIN = "no optimizer of optax has the same definition"
NO_CLIPNORM = "in optax the norm of all gradients is clipped, not that of each"
NO_EMA = "in optax the weights are not overwritten with their average"
NO_CONSTRAINTS = "in optax constraints are left to the training loop"
AGREEMENT = 1e-3  # of the weights after 20 large batches, for the definitions to be the same


def difference_of_multi_steps(row, expected):
    """The relative difference of `optax.MultiSteps` to optax with the large batch.

    Args:
        row: A row of the table.
        expected: The weights that Keras gives with the large batch.

    Returns:
        `(difference, None)`, or `(None, ("-", reason))` where optax has not the row's optimizer.
    """
    optimizer = row.optimizer()
    reason = reason_against(optimizer, row.build(keras.Model))
    if reason:
        return None, ("-", reason)
    large = train(row, optax_twin(optimizer), table.LARGE)
    if table.relative_difference(large, expected) > max(AGREEMENT, row.tolerance):
        return None, ("-", NO_TWIN)
    multi_steps = optax.MultiSteps(optax_twin(optimizer), every_k_schedule=table.COUNT)
    return table.relative_difference(train(row, multi_steps, table.SMALL), large), None


def reason_against(optimizer, model):
    """Why optax cannot do what the optimizer does, or `None`."""
    if optimizer.clipnorm:
        return NO_CLIPNORM
    if optimizer.use_ema:
        return NO_EMA
    if any(v.constraint is not None for v in model.trainable_variables):
        return NO_CONSTRAINTS
    return None if type(optimizer).__name__ in TWINS else NO_TWIN


def optax_twin(optimizer):
    """The same optimizer in optax."""
    rate = optimizer.get_config()["learning_rate"]
    if not isinstance(rate, float):
        rate = keras.saving.deserialize_keras_object(rate)  # a schedule, of the count of updates
    parts = [TWINS[type(optimizer).__name__](optimizer, rate)]
    if optimizer.clipvalue:
        parts.insert(0, optax.clip(optimizer.clipvalue))
    if optimizer.global_clipnorm:
        parts.insert(0, optax.clip_by_global_norm(optimizer.global_clipnorm))
    return optax.chain(*parts)


TWINS = {
    "SGD": lambda o, rate: optax.sgd(rate, o.momentum or None, o.nesterov),
    "RMSprop": lambda o, rate: optax.rmsprop(rate, o.rho, o.epsilon),
    "Adam": lambda o, rate: optax.adam(rate, o.beta_1, o.beta_2, o.epsilon),
    "AdamW": lambda o, rate: optax.adamw(
        rate, o.beta_1, o.beta_2, o.epsilon, weight_decay=o.weight_decay
    ),
    "Lion": lambda o, rate: optax.lion(rate, o.beta_1, o.beta_2, weight_decay=0.0),
    "Lamb": lambda o, rate: optax.lamb(rate, o.beta_1, o.beta_2, o.epsilon),
}


def train(row, optimizer, batch_size):
    """Gives the weights after the epochs of the table, by a stateless loop."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(row.policy)
    try:
        model = row.build(keras.Model)
        model.compile("sgd", **row.compile)  # for the loss: its optimizer is not used
        return run(model, optimizer, row.data(), batch_size)
    finally:
        keras.config.set_dtype_policy("float32")


def run(model, optimizer, data, batch_size):
    def loss_function(trainable, other, metrics, unused, x, y, sample_weight):
        loss, (_, _, other, _) = model.compute_loss_and_updates(
            trainable, other, metrics, x, y, sample_weight, True, unused
        )
        return loss, other

    @jax.jit
    def step(trainable, other, state, metrics, unused, x, y, sample_weight):
        gradients, other = jax.grad(loss_function, has_aux=True)(
            trainable, other, metrics, unused, x, y, sample_weight
        )
        updates, state = optimizer.update(gradients, state, trainable)
        return optax.apply_updates(trainable, updates), other, state

    first = jax.tree.map(lambda a: a[:batch_size], (data["x"], data["y"]))
    model.test_on_batch(*first)  # makes the metrics of the losses, which a trace cannot
    unused = [v.value for v in model.optimizer.variables]
    metrics = [v.value for v in model.metrics_variables]
    trainable = [v.value for v in model.trainable_variables]
    other = [v.value for v in model.non_trainable_variables]
    state = optimizer.init(trainable)
    x, y, sample_weight = data["x"], data["y"], data.get("sample_weight")
    if "class_weight" in data:
        sample_weight = np.vectorize(data["class_weight"].get)(y).astype("float32")
    for _ in range(table.EPOCHS):
        for i in range(0, len(x), batch_size):
            batch = jax.tree.map(lambda a, i=i: a[i : i + batch_size], (x, y, sample_weight))
            trainable, other, state = step(trainable, other, state, metrics, unused, *batch)
    values = {id(v): value for v, value in zip(model.trainable_variables, trainable, strict=True)}
    values |= {id(v): value for v, value in zip(model.non_trainable_variables, other, strict=True)}
    return np.concatenate(
        [np.float64(ops.convert_to_numpy(values[id(v)])).ravel() for v in model.weights]
    )
