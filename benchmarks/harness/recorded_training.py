"""Trains a model for a number of gradient evaluations, and records what it reached after each."""

import math

import keras
import numpy as np
from keras import ops

# A forward pass without a gradient: a gradient is a forward and a backward pass, of twice its cost.
FORWARD_PASS = 1 / 3
DIVERGED = 1e4  # a run that is so many times worse than its start is given up


class Recording:
    """A model that logs the loss of each batch as it is, where Keras logs the mean of an epoch.

    It stands before `kc.Model` in the bases of each model by itself: Keras makes a class whose
    objects are functional models, and what it inherits from, functional for good.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.measured = self.add_weight(shape=(), trainable=False, name="measured")

    def measure(self, loss):
        """What is recorded: the loss, or what a task measures instead of it."""
        return loss

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.measured.assign(ops.cast(ops.stop_gradient(self.measure(loss)), self.measured.dtype))
        return loss

    def multi_gradient_step(self, x, y, sample_weight):
        logs = super().multi_gradient_step(x, y, sample_weight)
        return {**logs, "measured": self.measured + 0.0}


class Batches(keras.utils.PyDataset):
    """Endless epochs of random batches, the same for each seed; or of the whole data."""

    def __init__(self, x, y, batch_size, steps, seed):
        super().__init__()
        self.x, self.y, self.batch_size, self.steps = x, y, batch_size, steps
        self.random, self.order = np.random.default_rng(seed), np.array([], int)

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        if self.batch_size is None:
            return self.x, self.y
        if len(self.order) < self.batch_size:
            self.order = self.random.permutation(len(self.x))
        chosen, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        return self.x[chosen], self.y[chosen]


class Curve(keras.callbacks.Callback):
    """What was measured, against the gradient evaluations it took to get there."""

    def __init__(self, budget, forward_passes=0):
        super().__init__()
        self.budget, self.forward_passes = budget, forward_passes
        self.steps, self.evaluations, self.spent, self.values = 0, 0.0, [], []

    def on_train_batch_end(self, batch, logs=None):
        self.note(float(logs["measured"]))
        self.steps += 1
        gradients = int(self.model.step_counts().get("gradient_evaluations", self.steps))
        self.evaluations = gradients + FORWARD_PASS * self.forward_passes * self.steps
        if self.evaluations > self.budget or self.diverged():
            self.model.stop_training = True

    def note(self, value):
        self.spent.append(self.evaluations)
        self.values.append(value)

    def diverged(self):
        return not math.isfinite(self.values[-1]) or self.values[-1] > DIVERGED * self.values[0]


class EvaluatedCurve(Curve):
    """The loss of all training data and the accuracy on others, at the end of each epoch."""

    def __init__(self, budget, task, forward_passes=0):
        super().__init__(budget, forward_passes)
        self.task, self.accuracies = task, []

    def on_train_begin(self, logs=None):
        self.evaluate()

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        gradients = int(self.model.step_counts().get("gradient_evaluations", self.steps))
        self.evaluations = gradients + FORWARD_PASS * self.forward_passes * self.steps

    def on_epoch_end(self, epoch, logs=None):
        self.evaluate()
        if self.evaluations > self.budget or self.diverged():
            self.model.stop_training = True

    def evaluate(self):
        options = {"verbose": 0, "return_dict": True}
        x, y = self.task.x, self.task.y
        self.note(self.model.evaluate(x, y, batch_size=len(x), **options)["loss"])
        x, y = self.task.held_out
        logs = self.model.evaluate(x, y, batch_size=len(x), **options)
        self.accuracies.append(logs["accuracy"])


def jit_compile(task):
    """Keras' choice, but for games on TensorFlow.

    Without it a weight may be read there for the gradient of another after it has been updated,
    which changes the course of a game from run to run (seen with `keras.Model` alone).
    """
    return True if task.game and keras.backend.backend() == "tensorflow" else "auto"


class Trainable:
    """One compiled model that can be trained again and again, from another start each time.

    Args:
        task: The `Task`.
        optimizer: A Keras optimizer or one of keras_cool's.
        full_batch: Whether the optimizer keeps its last stage, at the cost of a forward pass a
            step.
    """

    def __init__(self, task, optimizer, full_batch=False):
        self.task, self.forward_passes = task, int(full_batch)
        self.model = task.model()
        self.model.compile(
            optimizer, loss=task.loss, metrics=list(task.metrics), jit_compile=jit_compile(task)
        )
        optimizer.build(self.model.trainable_variables)
        self.start = [ops.convert_to_numpy(v) for v in optimizer.variables]

    def run(self, seed, budget, rate=None, evaluations_a_step=1):
        """Trains from the start that belongs to the seed.

        Args:
            seed: Integer.
            budget: Integer, the gradient evaluations after which it ends.
            rate: Float, the learning rate, or `None`: the optimizer's own.
            evaluations_a_step: Integer, how many a step takes at least.

        Returns:
            The `Curve`. Its last point may lie beyond the budget by a step.
        """
        task, model = self.task, self.model
        keras.utils.set_random_seed(seed)
        for variable, value in zip(model.trainable_variables, task.start(model, seed)):
            variable.assign(value)
        for variable, value in zip(model.optimizer.variables, self.start):
            variable.assign(value)
        model.measured.assign(math.nan)  # what it stays where the first step is skipped
        if rate is not None:
            model.optimizer.learning_rate = rate
        if task.batch_size is None:
            curve, epochs = Curve(budget, self.forward_passes), 1
            steps = budget // evaluations_a_step + 1  # its loss is that before the last step
        else:
            curve, epochs = EvaluatedCurve(budget, task, self.forward_passes), task.epochs
            steps = max(1, budget // (epochs * evaluations_a_step))
        batches = Batches(task.x, task.y, task.batch_size, steps, seed)
        model.fit(batches, epochs=epochs, verbose=0, callbacks=[curve])
        return curve
