"""`WeightAveraging`: the mean of the weights, with the batch statistics that belong to it.

The reference is NumPy in float64, of the weights that a callback notes while training; on PyTorch
`torch.optim.swa_utils`. Training is that without the callback, bit for bit.
"""

import contextlib
import copy
import pickle
import warnings

import keras
import numpy as np
import pytest

import keras_cool as kc
from keras_cool.callbacks import WeightAveraging
from support.comparisons import assert_all_close, assert_all_equal
from support.models import rate_of
from support.replicas import two_devices
from support.training import fit
from support.ways_to_train import BACKEND, MODELS, WAYS

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype("float32")
Y = X[:, :1] ** 2 - X[:, 1:2]
EAGER = {"run_eagerly": True}
BATCHES = 3  # of 8, 8 and 4 samples


def network(kind="plain", normalised=True, optimizer=None, inputs=None, rest=(), **way):
    """With the same weights and seeds each time; eager, which is quick here, unless asked."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((3,)) if inputs is None else inputs
    hidden = keras.layers.Dense(4, activation="tanh", name="hidden")(inputs)
    if normalised:
        hidden = keras.layers.BatchNormalization(momentum=0.7, name="normalised")(hidden)
    for layer in rest:
        hidden = layer(hidden)
    model = MODELS[kind](inputs, keras.layers.Dense(1)(hidden))
    model.compile(
        optimizer or keras.optimizers.SGD(0.05, momentum=0.9), loss="mse", **(way or EAGER)
    )
    return model


class Notes(keras.callbacks.Callback):
    """The weights of the training at the end of each batch, and what is seen of an epoch's end."""

    def __init__(self):
        super().__init__()
        self.after_batches, self.seen, self.begun_with = [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.after_batches.append([])
        self.begun_with.append([array(v) for v in self.model.variables])

    def on_train_batch_end(self, batch, logs=None):
        self.after_batches[-1].append((batch, weights(self.model)))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(weights(self.model))

    @property
    def after_epochs(self):
        return [of_epoch[-1][1] for of_epoch in self.after_batches if of_epoch]


@contextlib.contextmanager
def policy(name):
    """Layers of this type, by themselves."""
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def array(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor))


def weights(model):
    return [array(v) for v in model.trainable_variables]


def mean(of_several):
    return [np.mean(np.float64(arrays), axis=0) for arrays in zip(*of_several, strict=True)]


def statistics(model, batches):
    """Mean and variance by NumPy, in float64, of what enters batch normalisation, weighted by the
    samples of the batches."""
    kernel, bias = (np.float64(array(v)) for v in model.get_layer("hidden").trainable_variables)
    hidden = [np.tanh(np.float64(x) @ kernel + bias) for x in batches]
    sizes = [len(h) for h in hidden]
    return [np.average([f(h, axis=0) for h in hidden], 0, sizes) for f in (np.mean, np.var)]


def moving(model):
    layer = model.get_layer("normalised")
    return [array(layer.moving_mean), array(layer.moving_variance)]


def batches_of(x, size=8):
    return [x[i : i + size] for i in range(0, len(x), size)]


def assert_averaged(model, notes, first, last=None):
    assert_all_close(weights(model), mean(notes.after_epochs[first:last]), 1e-6, 1e-7)


# ------------------------------------------------------------------- the mean


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_the_end_of_an_epoch_sees_the_average_and_training_does_not(kind, way):
    def trained(*callbacks):
        rest = keras.layers.Dropout(0.3, seed=1), keras.layers.BatchNormalization(trainable=False)
        model, notes = network(kind, rest=rest, **WAYS[way]), Notes()
        data = {"epochs": 4, "validation_data": (X[:8], Y[:8])}
        return model, notes, fit(model, X, Y, callbacks=[notes, *callbacks], **data)

    without, noted, history = trained()
    average = WeightAveraging(1)
    model, notes, averaged = trained(average)
    assert average.count == 3
    assert averaged["loss"] == history["loss"]
    assert averaged["val_loss"][0] == history["val_loss"][0]
    for a, b in zip(
        notes.begun_with + notes.after_epochs, noted.begun_with + noted.after_epochs, strict=True
    ):
        assert_all_equal(a, b)
    assert_all_equal(notes.seen[0], notes.after_epochs[0])
    for epoch in (1, 2, 3):
        assert_all_close(notes.seen[epoch], mean(notes.after_epochs[1 : epoch + 1]), 1e-6, 1e-7)
    assert_averaged(model, notes, 1)
    assert_all_close(moving(model), statistics(model, batches_of(X)), 1e-5, 1e-7)
    expected = np.mean((model.predict(X[:8], verbose=0) - Y[:8]) ** 2)
    assert averaged["val_loss"][3] == pytest.approx(expected, rel=1e-5)
    # Seeds, and what is not trained, are those of the last step.
    renewed = {id(v) for v in model.get_layer("normalised").variables}
    for a, b in zip(model.variables, without.variables, strict=True):
        if not a.trainable and id(a) not in renewed:
            np.testing.assert_array_equal(array(a), array(b), err_msg=a.path)


def test_the_order_of_shuffled_data_is_as_without():
    def trained(*callbacks):
        return fit(network(), X, Y, shuffle=True, epochs=4, callbacks=callbacks)["loss"]

    assert trained(WeightAveraging(0)) == trained()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_every_so_many_batches(kind, way):
    model, notes, average = network(kind, False, **WAYS[way]), Notes(), WeightAveraging(1, 2)
    fit(model, X, Y, callbacks=[average, notes], epochs=4)
    executed = WAYS[way].get("steps_per_execution", 1)
    ends = [w for of_epoch in notes.after_batches[1:] for _, w in of_epoch]
    # Of 9 batches, after the 2nd, 4th, 6th and 8th; of executions of 2 and 1, at the ends of those.
    due = [ends[i] for i in ((1, 3, 5, 7) if executed == 1 else (0, 2, 3, 4))]
    assert average.count == len(due)
    assert_all_close(weights(model), mean(due), 1e-6, 1e-7)


def test_a_single_callback_that_is_not_in_a_list():
    model, average = network(normalised=False), WeightAveraging(0, 1)
    model.fit(X, Y, batch_size=8, shuffle=False, epochs=3, callbacks=average, verbose=0)
    other, notes = network(normalised=False), Notes()
    fit(other, X, Y, callbacks=[notes], epochs=3)
    assert average.count == 9
    assert_all_close(
        weights(model), mean([w for e in notes.after_batches for _, w in e]), 1e-6, 1e-7
    )


def test_weights_of_float64(float64):
    model, notes = network(), Notes()
    fit(model, X.astype("float64"), Y, callbacks=[WeightAveraging(0), notes], epochs=3)
    assert weights(model)[0].dtype == "float64"
    assert_all_close(weights(model), mean(notes.after_epochs), 1e-14, 1e-15)
    assert_all_close(moving(model), statistics(model, batches_of(X)), 1e-12)


def test_weights_of_16_bits_are_averaged_in_float32():
    with policy("bfloat16"):
        model, notes = network(normalised=False), Notes()
        fit(model, X, Y, callbacks=[WeightAveraging(0), notes], epochs=7)
    expected = mean([[np.float64(a.astype("float32")) for a in w] for w in notes.after_epochs])
    for a, b in zip(weights(model), expected, strict=True):
        np.testing.assert_allclose(np.float64(a.astype("float32")), b, rtol=2**-8, atol=1e-6)


# ------------------------------------------------------------------- batch normalisation


@pytest.mark.backend("torch")
def test_the_same_as_swa_utils_of_torch():
    import torch

    model, notes = network(), Notes()
    fit(model, X[:16], Y[:16], callbacks=[WeightAveraging(1), notes], epochs=5)
    theirs = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.BatchNorm1d(4, eps=1e-3),
        torch.nn.Linear(4, 1),
    )  # fmt: skip
    average = torch.optim.swa_utils.AveragedModel(theirs)
    for kernel, bias, gamma, beta, kernel2, bias2 in notes.after_epochs[1:]:
        values = [kernel.T, bias, gamma, beta, kernel2.T, bias2]
        for parameter, value in zip(theirs.parameters(), values, strict=True):
            parameter.data = torch.tensor(np.ascontiguousarray(value))
        average.update_parameters(theirs)
    torch.optim.swa_utils.update_bn([torch.tensor(x) for x in batches_of(X[:16])], average)
    layer = average.module[2]
    unbiased = layer.running_var.numpy() * 7 / 8
    assert_all_close(moving(model), [layer.running_mean.numpy(), unbiased], 1e-5, 1e-7)
    layer.running_var *= 7 / 8
    average.eval()
    expected = average(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, rtol=1e-4, atol=1e-6)


def test_a_layer_that_is_called_twice_has_the_mean_of_both():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((3,), name="b")}
    hidden = keras.layers.Dense(4, activation="tanh", name="hidden")
    normalised = keras.layers.BatchNormalization(name="normalised")
    outputs = [normalised(hidden(value)) for value in inputs.values()]
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.add(outputs)))
    model.compile(keras.optimizers.SGD(0.05), loss="mse", **EAGER)
    x = {"a": X, "b": X[::-1].copy() + 1}
    fit(model, x, Y, callbacks=[WeightAveraging(0)], epochs=2)
    of_each = [statistics(model, batches_of(value)) for value in x.values()]
    assert_all_close(moving(model), np.mean(of_each, axis=0), 1e-5, 1e-7)


def test_masks_and_a_layer_inside_a_model_inside_a_model():
    class Own(keras.layers.BatchNormalization):
        pass

    inputs = keras.Input((5, 3))
    inner = keras.Sequential([keras.layers.Masking(), Own(name="normalised")])
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.Sequential([inner])(inputs)))
    model.compile("sgd", loss="mse")
    x = RNG.normal(size=(20, 5, 3)).astype("float32")
    x[::3, 3:] = 0
    fit(model, x, x[..., :1], callbacks=[WeightAveraging(0)])
    layer = inner.layers[-1]
    kept = [np.float64(b[(b != 0).any(-1)]) for b in batches_of(x)]
    sizes = [len(b) for b in batches_of(x)]
    expected = [np.average([f(k, axis=0) for k in kept], 0, sizes) for f in (np.mean, np.var)]
    assert_all_close([array(layer.moving_mean), array(layer.moving_variance)], expected, 1e-5, 1e-6)


class Batches(keras.utils.PyDataset):
    """Data that change with each call of its `on_epoch_end`."""

    epoch = 0

    def __len__(self):
        return BATCHES

    def __getitem__(self, i):
        return batches_of(X)[i] + self.epoch, batches_of(Y)[i]

    def on_epoch_end(self):
        self.epoch += 1


def test_a_py_dataset_is_read_again_and_told_nothing():
    model, data, average = network(), Batches(), WeightAveraging(0)
    epochs = []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: epochs.append(data.epoch))
    model.fit(data, epochs=2, callbacks=[average, look], verbose=0)
    without = Batches()
    network().fit(without, epochs=2, verbose=0)
    assert data.epoch == without.epoch
    assert_all_close(moving(model), statistics(model, batches_of(X + epochs[-1])), 1e-5, 1e-7)


@pytest.mark.backend("tensorflow")
@pytest.mark.parametrize("steps", [None, 2])
def test_a_dataset_of_tensorflow(steps):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    data = data if steps is None else data.repeat()
    model = network()
    model.fit(data, steps_per_epoch=steps, epochs=2, callbacks=[WeightAveraging(0)], verbose=0)
    assert_all_close(moving(model), statistics(model, batches_of(X)[:steps]), 1e-5, 1e-7)


@pytest.mark.backend("torch")
def test_a_data_loader_with_a_generator_of_its_own():
    import torch

    data = torch.utils.data.TensorDataset(torch.tensor(X[:16]), torch.tensor(Y[:16]))

    def trained(*callbacks):
        loader = torch.utils.data.DataLoader(
            data, 8, shuffle=True, generator=torch.Generator().manual_seed(1)
        )
        model = network()
        return model, model.fit(loader, epochs=4, callbacks=callbacks, verbose=0).history["loss"]

    model, losses = trained(WeightAveraging(0))
    assert losses == trained()[1]
    assert_all_close(moving(model)[:1], statistics(model, [X[:16]])[:1], 1e-5, 1e-7)


def test_steps_per_epoch_and_sample_weights():
    model, average = network(), WeightAveraging(0)
    steps = {"steps_per_epoch": 2, "sample_weight": np.linspace(0, 1, 20)}
    fit(model, X, Y, callbacks=[average], epochs=1, **steps)
    assert_all_close(moving(model), statistics(model, batches_of(X)[:2]), 1e-5, 1e-7)


def generator():
    while True:
        yield X[:8], Y[:8]


def test_a_generator_cannot_be_read_twice():
    data = {"steps_per_epoch": 2, "epochs": 2, "verbose": 0}
    with pytest.raises(ValueError, match=r"batch normalisation anew.*given a Python generator"):
        network().fit(generator(), callbacks=[WeightAveraging(0)], **data)
    model, notes = network(normalised=False), Notes()
    model.fit(generator(), callbacks=[WeightAveraging(0), notes], **data)
    assert_averaged(model, notes, 0)


# ------------------------------------------------------------------- other callbacks


def test_wherever_it_stands_the_others_see_the_average(tmp_path):
    model, notes = network(), Notes()
    path = tmp_path / "last.weights.h5"
    scores = iter([3, 2, 1, 4])
    others = [
        keras.callbacks.ModelCheckpoint(path, save_weights_only=True),
        kc.callbacks.PythonMetric(
            lambda model: next(scores), "score", "min", save_best=tmp_path / "best.keras"
        ),
        keras.callbacks.EarlyStopping("score", mode="min", restore_best_weights=True, patience=9),
        notes,
    ]
    fit(model, X, Y, callbacks=[*others, WeightAveraging(1)], epochs=4)
    assert_averaged(model, notes, 1, 3)  # the best one
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert_all_equal(best.get_weights(), model.get_weights())
    model.load_weights(path)
    assert_averaged(model, notes, 1)
    assert_all_close(moving(model), statistics(model, batches_of(X)), 1e-5, 1e-7)


def test_a_rescue_takes_the_average_back_too():
    class Explode(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                self.model.optimizer.learning_rate = 1e4

    model = network(optimizer=keras.optimizers.SGD(0.05), normalised=False, **EAGER)
    notes, average = Notes(), WeightAveraging(1)
    rescue = kc.callbacks.Rescue(factor=5e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(model, X, Y, callbacks=[average, Explode(), notes, rescue], epochs=6)
    assert [r["epoch"] for r in rescue.rescues] == [3]
    good = [notes.after_epochs[i] for i in (1, 2, 4, 5)]  # epoch 3 ended with what epoch 2 had
    assert average.count == 4
    assert_all_close(weights(model), mean(good), 1e-6, 1e-7)


def test_weights_that_are_not_finite_are_left_out():
    model, notes, average = network(normalised=False), Notes(), WeightAveraging(0)

    def spoil(epoch, logs):
        if epoch == 2:
            model.set_weights([w * np.nan for w in model.get_weights()])

    spoiler = keras.callbacks.LambdaCallback(on_epoch_begin=spoil)
    with pytest.warns(UserWarning, match="not finite out of the average, in epoch 2"):
        fit(model, X, Y, callbacks=[average, notes, spoiler], epochs=4)
    assert average.count == 2
    assert_averaged(model, notes, 0, 2)


# ------------------------------------------------------------------- interrupted and resumed


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C at the beginning of an epoch or of one of its batches, or at its end."""

    def __init__(self, epoch, batch=None, at_its_end=False):
        super().__init__()
        self.at, self.at_its_end = (epoch, batch), at_its_end

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.at == (epoch, None) and not self.at_its_end:
            raise KeyboardInterrupt

    def on_train_batch_begin(self, batch, logs=None):
        if self.at == (self.epoch, batch):
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if self.at_its_end and epoch == self.at[0]:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("kind", "frequency"), [("plain", "epoch"), ("mixin", 2)])
def test_a_killed_training_goes_on_bit_for_bit(kind, frequency, tmp_path):
    def make():
        return WeightAveraging(1, frequency, learning_rate=0.01)

    whole, average = network(kind), make()
    fit(whole, X, Y, callbacks=[average], epochs=4)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(network(kind), X, Y, callbacks=[backup, make(), Interrupt(3)], epochs=4)
    model, resumed = network(kind), make()
    fit(model, X, Y, callbacks=[resumed, backup], epochs=4)
    assert resumed.count == average.count
    assert_all_equal(model.get_weights(), whole.get_weights())
    assert_all_equal(*([array(v) for v in m.optimizer.variables] for m in (model, whole)))


@pytest.mark.parametrize("frequency", ["epoch", 2])
def test_a_training_that_was_killed_in_the_middle_of_an_epoch(frequency, tmp_path):
    """Keras begins that epoch anew, from the weights that were saved."""
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=4, delete_checkpoint=0)
    before, average = Notes(), WeightAveraging(1, frequency)
    killed = network()
    with pytest.raises(KeyboardInterrupt):
        fit(killed, X, Y, callbacks=[average, backup, before, Interrupt(2, 2)], epochs=4)
    noted = [w for e in before.after_batches[1:] for _, w in e]
    assert_all_equal(weights(killed), noted[-1])  # the weights of the last step
    saved = noted[:5]  # after 8 batches in all, 5 of them from epoch 1 on
    model, after, resumed = network(), Notes(), WeightAveraging(1, frequency)
    fit(model, X, Y, callbacks=[resumed, backup, after], epochs=4)
    steps = saved + [w for e in after.after_batches for _, w in e]
    due = steps[1::2] if frequency == 2 else [saved[2], *after.after_epochs]
    assert resumed.count == len(due)
    assert_all_close(weights(model), mean(due), 1e-6, 1e-7)
    # In the process that was interrupted a further `fit` goes on from the same weights.
    fit(killed, X, Y, callbacks=[average], epochs=4, initial_epoch=2)
    assert average.count == resumed.count
    assert_all_equal(killed.get_weights(), model.get_weights())


def test_a_second_fit_goes_on_as_one():
    whole, average = network(), WeightAveraging(1, learning_rate=0.01)
    fit(whole, X, Y, callbacks=[average], epochs=6)
    model, parts = network(), WeightAveraging(1, learning_rate=0.01)
    for begin, end in ((0, 1), (1, 3), (3, 6)):
        with warnings.catch_warnings():
            warnings.simplefilter("error" if begin else "ignore")
            fit(model, X, Y, callbacks=[parts], initial_epoch=begin, epochs=end)
    assert parts.count == average.count == 5
    assert_all_equal(model.get_weights(), whole.get_weights())
    begins = weights(model)
    notes = Notes()
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: (
            assert_all_equal(weights(model), begins)
            if batch == 0 and len(notes.after_batches) == 1
            else None
        )
    )
    fit(model, X, Y, callbacks=[notes, seen, parts], epochs=3)  # a new one, from the old average
    assert parts.count == 2
    assert_averaged(model, notes, 1)


@pytest.mark.parametrize(
    ("kind", "where"),
    [("plain", "batch"), ("plain", "end"), ("plain", "validation"), ("mixin", "batch")],
)
def test_an_exception_leaves_the_last_weights_and_the_average(kind, where):
    whole, average = network(kind), WeightAveraging(0)
    fit(whole, X, Y, callbacks=[average], epochs=3)
    model, parts, notes = network(kind), WeightAveraging(0), Notes()
    arguments = {"epochs": 3, "callbacks": [parts, notes]}
    if where == "validation":
        arguments["validation_data"] = X[:, :2], Y  # of the wrong shape
        epochs = 1
    else:
        interrupt = Interrupt(1, at_its_end=True) if where == "end" else Interrupt(2, 0)
        arguments["callbacks"].append(interrupt)
        epochs = 2
    with pytest.raises((KeyboardInterrupt, Exception)):
        fit(model, X, Y, **arguments)
    assert_all_equal(weights(model), notes.after_epochs[epochs - 1])
    fit(model, X, Y, callbacks=[parts], epochs=3, initial_epoch=epochs)
    assert parts.count == 3
    assert_all_equal(weights(model), weights(whole))
    assert_all_equal(moving(model), moving(whole))


def test_an_exception_that_a_callback_catches_ends_nothing():
    def tries(model):
        with contextlib.suppress(Exception):
            model.evaluate(X[:, :2], Y, verbose=0)  # of the wrong shape
        return 0

    model, notes, average = network("mixin"), Notes(), WeightAveraging(0)
    metric = kc.callbacks.PythonMetric(tries, "zero")
    fit(model, X, Y, callbacks=[metric, notes, average], epochs=3)
    assert average.count == 3
    assert_averaged(model, notes, 0)


def test_another_model_has_another_average():
    average = WeightAveraging(0)
    fit(network(), X, Y, callbacks=[average], epochs=3)
    model, notes = network(), Notes()
    fit(model, X, Y, callbacks=[average, notes], epochs=3, initial_epoch=1)
    assert average.count == 2
    assert_averaged(model, notes, 0)


# ------------------------------------------------------------------- with other features


OPTIMIZERS = {
    "accumulate": lambda: kc.optimizers.Accumulate(keras.optimizers.SGD(0.05), 2),
    "heun": lambda: kc.optimizers.Heun(keras.optimizers.Adam(0.01)),
}


@pytest.mark.parametrize(("name", "microbatch_size"), [("accumulate", None), ("heun", 4)])
def test_optimizers_and_micro_batches(name, microbatch_size):
    arguments = {"optimizer": OPTIMIZERS[name](), "microbatch_size": microbatch_size}
    model, notes = network("mixin", **arguments), Notes()
    fit(model, X, Y, callbacks=[notes, WeightAveraging(1)], epochs=3)
    other = network("mixin", **{**arguments, "optimizer": OPTIMIZERS[name]()})
    fit(other, X, Y, epochs=3)
    # What an epoch ends with is what the next one begins with: a window may end with it.
    begun_with = notes.begun_with[2]
    ended_with = [a for a, v in zip(begun_with, model.variables, strict=True) if v.trainable]
    assert_all_close(weights(model), mean([ended_with, weights(other)]), 1e-6, 1e-7)
    size = microbatch_size or 8
    assert_all_close(moving(model), statistics(model, batches_of(X, size)), 1e-5, 1e-7)


@pytest.mark.parametrize(
    ("kind", "name"), [("mixin", "mixed_bfloat16"), ("plain", "mixed_float16")]
)
def test_mixed_precision(kind, name):
    with policy(name):
        model, notes = network(kind), Notes()
        fit(model, X, Y, callbacks=[WeightAveraging(1), notes], epochs=3)
    assert_averaged(model, notes, 1)
    assert_all_close(moving(model), statistics(model, batches_of(X)), 0.02, 0.01)


@pytest.mark.backend("jax", "tensorflow")
@pytest.mark.parametrize("kind", MODELS)
def test_several_devices(kind, tmp_path):
    x, y = X[:16], Y[:16]
    with two_devices():
        model, notes = network(kind, jit_compile=False), Notes()
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        fit(model, x, y, callbacks=[WeightAveraging(1), notes], epochs=4)
        with pytest.raises(KeyboardInterrupt):
            fit(
                network(kind, jit_compile=False),
                x,
                y,
                callbacks=[WeightAveraging(1), backup, Interrupt(3)],
                epochs=4,
            )
        resumed = network(kind, jit_compile=False)
        fit(resumed, x, y, callbacks=[WeightAveraging(1), backup], epochs=4)
    assert_averaged(model, notes, 1)
    # A replica of TensorFlow normalises its own share of a batch.
    size = 4 if BACKEND == "tensorflow" else 8
    assert_all_close(moving(model), statistics(model, batches_of(x, size)), 1e-5, 1e-7)
    assert_all_close(resumed.get_weights(), model.get_weights(), 1e-6, 1e-7)


def test_learning_rate():
    rates = []
    model = network()
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(rate_of(model))
    )
    average = WeightAveraging(2, learning_rate=0.125)
    fit(model, X, Y, callbacks=[look, average], epochs=4)
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.125, 0.125])


# ------------------------------------------------------------------- what is wrong


def test_a_training_that_ends_before_it_begins():
    model, notes = network(), Notes()
    with pytest.warns(UserWarning, match="averaged nothing: training ended with epoch 1, .* 5"):
        fit(model, X, Y, callbacks=[WeightAveraging(5), notes], epochs=2)
    assert_all_equal(weights(model), notes.after_epochs[-1])
    with pytest.warns(UserWarning, match="after 9 batches, counted from the beginning of epoch 0"):
        fit(model, X, Y, callbacks=[WeightAveraging(0, 9)], epochs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": -1}, "`start` of WeightAveraging is an integer of 0 or more.*given -1"),
        ({"start": 0.75}, "`start` of WeightAveraging is an integer of 0 or more.*given 0.75"),
        ({"start": True}, "`start` of WeightAveraging"),
        ({"frequency": 0}, "`frequency` of WeightAveraging"),
        ({"frequency": "batch"}, "`frequency` of WeightAveraging"),
        ({"learning_rate": 0}, "`learning_rate` of WeightAveraging is a positive float.*given 0"),
        ({"learning_rate": "auto"}, "`learning_rate` of WeightAveraging"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightAveraging(**{"start": 1, **arguments})


SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (keras.optimizers.SGD(SCHEDULE), "that of SGD is ExponentialDecay, a schedule.*number"),
        (kc.optimizers.Heun(keras.optimizers.SGD(SCHEDULE)), "that of SGD is ExponentialDecay"),
        (kc.optimizers.RK23(), "RK23 chooses its step sizes itself"),
        (keras.optimizers.Adam(use_ema=True), r"Adam\(use_ema=True\) a moving average"),
        (kc.optimizers.Accumulate(keras.optimizers.Adam(use_ema=True), 2), r"Adam\(use_ema=True\)"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_optimizers_that_contradict(optimizer, message):
    with pytest.raises(ValueError, match=message):
        fit(network("mixin", optimizer=optimizer), X, Y, callbacks=[WeightAveraging(0, 1, 0.1)])


def test_two_of_them():
    with pytest.raises(ValueError, match="Two callbacks WeightAveraging"):
        fit(network(), X, Y, callbacks=[WeightAveraging(0), WeightAveraging(1)])


@pytest.mark.parametrize("kind", MODELS)
def test_weights_that_were_set_between_two_fits_are_trained(kind):
    model, average = network(kind, False, keras.optimizers.SGD(0.0)), WeightAveraging(1)
    fit(model, X, Y, callbacks=[average], epochs=3)
    old = model.get_weights()
    model.set_weights([np.full_like(w, 7) for w in old])
    fit(model, X, Y, callbacks=[average], initial_epoch=3, epochs=4)
    assert average.count == 3
    assert_all_close(model.get_weights(), [(2 * w + 7) / 3 for w in old], 1e-6)


def test_a_checkpoint_that_is_loaded_while_training_is_one_of_weights(tmp_path):
    path, model, notes = tmp_path / "model.weights.h5", network(normalised=False), Notes()
    back = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: model.load_weights(path) if epoch == 4 else None
    )
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    average = WeightAveraging(1)
    fit(model, X, Y, callbacks=[average, checkpoint, back, notes], epochs=5)
    assert average.count == 4
    assert_all_close(weights(model), mean(notes.after_epochs[1:]), 1e-6, 1e-7)


def test_a_new_average_begins_where_other_weights_are_trained():
    model, average = network(normalised=False), WeightAveraging(1)
    model.get_layer("hidden").trainable = False
    model.compile(keras.optimizers.SGD(0.05), loss="mse", **EAGER)
    fit(model, X, Y, callbacks=[average], epochs=3)
    model.get_layer("hidden").trainable = True
    model.compile(keras.optimizers.SGD(0.05), loss="mse", **EAGER)
    notes = Notes()
    with pytest.warns(UserWarning, match="begins a new average.*the 2 times"):
        fit(model, X, Y, callbacks=[average, notes], initial_epoch=3, epochs=5)
    assert average.count == 2
    assert_all_close(weights(model), mean(notes.after_epochs), 1e-6, 1e-7)


def test_a_callback_that_changes_the_average_is_told_so():
    model = network(normalised=False)
    halve = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.set_weights([w / 2 for w in model.get_weights()])
    )
    with pytest.warns(UserWarning, match="changed weights at the end of an epoch"):
        fit(model, X, Y, callbacks=[WeightAveraging(0), halve], epochs=3)


def test_the_pass_leaves_a_weight_that_its_layer_assigns():
    dense = keras.layers.SpectralNormalization(keras.layers.Dense(4))
    model, notes = network(rest=[dense]), Notes()
    fit(model, X, Y, callbacks=[WeightAveraging(1), notes], epochs=4)
    assert_averaged(model, notes, 1)


def test_it_is_copied_and_pickled():
    average = WeightAveraging(2, 3, 0.5)
    for other in (copy.deepcopy(average), pickle.loads(pickle.dumps(average))):
        assert (other.start, other.frequency, other.learning_rate) == (2, 3, 0.5)
        assert other.count == 0
