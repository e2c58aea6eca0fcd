"""What learning-rate schedules give, step for step, and a model that adds them up.

The model has one weight, and its loss is its output: plain gradient descent takes the learning rate
from the weight at each step.
"""

import keras
import numpy as np

from support.ways_to_train import MODELS

RAMPS = {"linear": lambda p: p, "cosine": lambda p: (1 - np.cos(np.pi * p)) / 2}


def rates(schedule, steps):
    """The learning rates, one after another, as an optimizer calls for them: by an integer."""
    step = keras.Variable(0, dtype="int32", trainable=False)
    values = []
    for t in range(steps):
        step.assign(t)
        values.append(float(schedule(step)))
    return np.array(values)


def one_weight(kind="plain", optimizer=None, **way):
    inputs = keras.Input((1,))
    outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs)
    model = MODELS[kind](inputs, outputs)
    model.compile(optimizer, loss=lambda y, p: p, **(way or {"run_eagerly": True}))
    return model


def weights_after_epochs(model, *callbacks, batches=4, epochs=2):
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(float(model.get_weights()[0][0, 0]))
    )
    x = np.ones((batches, 1), "float32")
    model.fit(x, x, batch_size=1, epochs=epochs, verbose=0, callbacks=[*callbacks, look])
    return seen


def rates_of_torch(name, steps, **arguments):
    """The same by a scheduler of `torch.optim.lr_scheduler`."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    make = getattr(torch.optim.lr_scheduler, name)
    scheduler = make(optimizer, cycle_momentum=False, **arguments)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values
