"""`Trajectory`: the same path everywhere, its principal plane, and the loss on it."""

import sys

import keras
import numpy as np
import pytest
from sklearn.decomposition import PCA

import keras_cool as kc
from keras_cool.callbacks.shared.principal_plane import BLOCK, principal_plane
from support.ways_to_train import MODELS, WAYS

CURVATURES = np.array([1.0, 0.2])
START = np.array([2.0, -1.5])
X = np.diag(np.sqrt(2 * CURVATURES)).astype("float32")  # the mean over 2 rows of (x w)^2
Y = np.zeros((2, 1), "float32")


def loss_at(weights):
    return np.sum(CURVATURES * np.asarray(weights) ** 2, axis=-1)


def quadratic(optimizer=None, kind=keras.Model, **arguments):
    """Two weights, the loss `sum(c w^2)`, and a step a row pair."""
    inputs = keras.Input((2,))
    model = kind(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    model.set_weights([START.reshape(2, 1)])
    model.compile(keras.optimizers.SGD(0.1) if optimizer is None else optimizer, "mse", **arguments)
    return model


def train_under(model, trajectory, epochs=3, steps=4, callbacks=(), **arguments):
    x, y = (np.tile(a, (steps, 1)) for a in (X, Y))
    settings = {"batch_size": 2, "shuffle": False, "verbose": 0, "epochs": epochs}
    return model.fit(x, y, callbacks=[*callbacks, trajectory], **settings, **arguments)


def descent(steps, rate=0.1):
    """The points of gradient descent, in NumPy."""
    factors = (1 - 2 * rate * CURVATURES)[None] ** np.arange(steps + 1)[:, None]
    return START * factors


def points_of(trajectory):
    data = trajectory.data()
    last = trajectory.model.get_weights()[0].ravel()
    return last + data["coordinates"] @ data["directions"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("frequency", ["epoch", 2])
def test_the_path_is_that_of_gradient_descent(frequency, way, model):
    trajectory = kc.callbacks.Trajectory(frequency)
    train_under(quadratic(kind=MODELS[model], **WAYS[way]), trajectory)

    every = 4 if frequency == "epoch" else 2
    times = trajectory.data()["epochs" if frequency == "epoch" else "steps"]
    assert times.tolist() == ([0, 1, 2, 3] if frequency == "epoch" else [0, 2, 4, 6, 8, 10, 12])
    np.testing.assert_allclose(points_of(trajectory), descent(12)[::every], atol=2e-6)


@pytest.mark.skipif("two-steps" not in WAYS, reason="Keras has no steps_per_execution there")
def test_points_lie_between_executions():
    trajectory = kc.callbacks.Trajectory(3)
    train_under(quadratic(steps_per_execution=2), trajectory, epochs=2, steps=5)

    # Executions begin at the steps 0, 2, 4, 5, 7 and 9; 6 has passed at 7, and 9 at 9.
    assert trajectory.data()["steps"].tolist() == [0, 4, 7, 9, 10]
    np.testing.assert_allclose(points_of(trajectory), descent(10)[[0, 4, 7, 9, 10]], atol=2e-6)


def test_multi_gradient_optimizers_have_a_path():
    trajectory = kc.callbacks.Trajectory(1)
    train_under(quadratic(kc.optimizers.Heun(0.1), kc.Model), trajectory, epochs=1)

    z = 0.1 * 2 * CURVATURES
    heun = START * (1 - z + z**2 / 2)[None] ** np.arange(5)[:, None]
    np.testing.assert_allclose(points_of(trajectory), heun, atol=2e-6)


def test_the_losses_are_those_of_the_quadratic_function():
    trajectory = kc.callbacks.Trajectory()
    model = quadratic()
    train_under(model, trajectory)
    last = model.get_weights()[0].ravel().astype("float64")

    np.testing.assert_allclose(trajectory.data(X, Y)["loss"], loss_at(descent(12)[::4]), rtol=1e-5)
    data, surface = trajectory.data(), trajectory.surface(X, Y, resolution=4, margin=0.5)
    a, b = np.meshgrid(surface["first"], surface["second"])
    on_plane = last + np.stack([a, b], axis=-1) @ data["directions"]
    np.testing.assert_allclose(surface["loss"], loss_at(on_plane), rtol=1e-5, atol=1e-6)
    low, high = data["coordinates"].min(axis=0), data["coordinates"].max(axis=0)
    for values, lowest, length in zip((surface["first"], surface["second"]), low, high - low):
        np.testing.assert_allclose(values[[0, -1]], [lowest - length / 2, lowest + 1.5 * length])


@pytest.mark.parametrize("size", [7, 2 * BLOCK + 3])
def test_the_plane_is_that_of_scikit_learn(size):
    rng = np.random.default_rng(0)
    points = np.cumsum(rng.normal(size=(6, size)) * np.geomspace(1, 1e-2, size), axis=0) + 1.0

    plane = principal_plane(list(points))

    pca = PCA(2, svd_solver="full").fit(points - points[-1])
    cosines = np.sum(plane.directions * pca.components_, axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-9)
    np.testing.assert_allclose(plane.directions @ plane.directions.T, np.eye(2), atol=1e-12)
    ratios = pca.explained_variance_ratio_
    np.testing.assert_allclose(plane.explained_variance_ratio, ratios, rtol=1e-9)
    projected = (points - points[-1]) @ pca.components_.T * np.sign(cosines)
    np.testing.assert_allclose(plane.coordinates, projected, atol=1e-9 * np.abs(projected).max())


def network():
    layers = keras.layers
    stack = [keras.Input((3,)), layers.Dense(4, kernel_regularizer="l2")]
    stack += [layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(1)]
    model = keras.Sequential(stack)
    model.compile("adam", loss="mse", metrics=["mae"])
    return model


def state_of(model):
    variables = [*model.variables, *model.optimizer.variables]
    variables += [v for metric in model.metrics for v in metric.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


@pytest.mark.parametrize("batch_size", [8, 3])
def test_the_surface_has_the_loss_of_evaluate_and_leaves_the_model_to_the_bit(batch_size):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
    weight = rng.uniform(size=8)
    trajectory, model = kc.callbacks.Trajectory(1), network()
    model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[trajectory])
    before = state_of(model)

    surface = trajectory.surface(x, y, weight, batch_size, resolution=2, margin=0)
    data = trajectory.data(x, y, weight, batch_size)

    for a, b in zip(before, state_of(model), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    evaluated = model.evaluate(x, y, batch_size, 0, weight, return_dict=True)["loss"]
    assert data["loss"][-1] == pytest.approx(evaluated, rel=1e-6)
    step = (
        surface["first"][0] * data["directions"][0] + surface["second"][1] * data["directions"][1]
    )
    for variable in model.trainable_variables:
        part, step = np.split(step, [int(np.prod(variable.shape))])
        variable.assign(keras.ops.convert_to_numpy(variable) + part.reshape(variable.shape))
    evaluated = model.evaluate(x, y, batch_size, 0, weight, return_dict=True)["loss"]
    assert surface["loss"][1, 0] == pytest.approx(evaluated, rel=1e-5)


def test_datasets_have_a_surface_too():
    class Rows(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, i):
            return X, Y

    trajectory = kc.callbacks.Trajectory()
    train_under(quadratic(), trajectory)
    arrays = trajectory.surface(X, Y, resolution=2)["loss"]
    np.testing.assert_allclose(trajectory.surface(Rows(), resolution=2)["loss"], arrays, rtol=1e-6)


@pytest.mark.parametrize("in_file", [False, True])
def test_there_are_never_more_points_than_the_maximum(tmp_path, in_file):
    file = tmp_path / "points.npy" if in_file else None
    trajectory = kc.callbacks.Trajectory(1, maximum_points=4, file=file)
    train_under(quadratic(), trajectory, epochs=1, steps=11)

    assert trajectory.data()["steps"].tolist() == [0, 4, 8, 11]
    np.testing.assert_allclose(points_of(trajectory), descent(11)[[0, 4, 8, 11]], atol=2e-6)
    if in_file:
        rows = np.load(file)
        assert rows["time"].tolist() == [0, 4, 8, 11]
        np.testing.assert_allclose(rows["weights"], descent(11)[[0, 4, 8, 11]], atol=2e-6)


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def interrupted_and_resumed(folder, trajectory, first):
    def callbacks():
        backup = keras.callbacks.BackupAndRestore(folder / "backup")
        made = trajectory()
        return made, [backup, made] if first == "backup" else [made, backup]

    arguments = {"batch_size": 2, "epochs": 4, "shuffle": False, "verbose": 0}
    x, y = (np.tile(a, (4, 1)) for a in (X, Y))
    _, given = callbacks()
    with pytest.raises(KeyboardInterrupt):
        quadratic().fit(x, y, callbacks=[*given, Interrupt()], **arguments)
    made, given = callbacks()
    quadratic().fit(x, y, callbacks=given, **arguments)
    return made


@pytest.mark.parametrize(("frequency", "first"), [("epoch", "backup"), (3, "trajectory")])
def test_an_interrupted_path_goes_on(tmp_path, frequency, first):
    file = tmp_path / "points.npy"
    resumed = interrupted_and_resumed(
        tmp_path, lambda: kc.callbacks.Trajectory(frequency, file=file), first
    )
    whole = kc.callbacks.Trajectory(frequency)
    train_under(quadratic(), whole, epochs=4)

    expected, name = whole.data(), "epochs" if frequency == "epoch" else "steps"
    assert resumed.data()[name].tolist() == expected[name].tolist()
    np.testing.assert_allclose(resumed.data()["coordinates"], expected["coordinates"], atol=1e-6)


def test_an_interrupted_path_without_a_file_says_that_it_begins_anew(tmp_path):
    with pytest.warns(UserWarning, match=r"Trajectory\(file='trajectory.npy'\)"):
        resumed = interrupted_and_resumed(tmp_path, kc.callbacks.Trajectory, "backup")
    assert resumed.data()["epochs"].tolist() == [2, 3, 4]


def test_a_file_of_another_model_is_refused(tmp_path):
    file = tmp_path / "points.npy"

    def trajectory():
        if file.exists():
            np.save(file, np.zeros(3))
        return kc.callbacks.Trajectory(file=file)

    with pytest.raises(ValueError, match="the path of another model"):
        interrupted_and_resumed(tmp_path, trajectory, "backup")


def test_a_new_training_begins_anew():
    trajectory, model = kc.callbacks.Trajectory(), quadratic()
    train_under(model, trajectory)
    train_under(model, trajectory, epochs=2)
    assert trajectory.data()["epochs"].tolist() == [0, 1, 2]


def test_points_that_are_not_finite_are_left_out():
    class Diverge(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                self.model.set_weights([np.full((2, 1), np.nan)])

    trajectory = kc.callbacks.Trajectory()
    train_under(quadratic(), trajectory, epochs=4, callbacks=[Diverge()])
    assert trajectory.data()["epochs"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_shows_path_axes_and_explained_variance(tmp_path, ending):
    trajectory, path = kc.callbacks.Trajectory(), tmp_path / f"trajectory.{ending}"
    train_under(quadratic(), trajectory)
    trajectory.plot(path, X, Y, resolution=4)
    assert path.stat().st_size > 5_000


@pytest.mark.parametrize("loss", ["a gap", "nothing finite", "flat", "negative"])
def test_any_surface_is_drawn(loss):
    from matplotlib.figure import Figure

    from keras_cool.callbacks.shared.trajectory_figure import draw_trajectory

    values = {
        "a gap": np.array([[1.0, np.inf, 2.0], [3.0, np.nan, 1e30], [1.0, 1.0, 1.0]]),
        "nothing finite": np.full((3, 3), np.nan),
        "flat": np.full((3, 3), 2.0),
        "negative": np.arange(9.0).reshape(3, 3) - 5,
    }[loss]
    surface = {"first": np.arange(3.0), "second": np.arange(3.0), "loss": values}
    figure = Figure()
    draw_trajectory(figure, np.array([[2.0, 2], [1, 0], [0, 0]]), surface, np.array([0.9, 0.08]))
    figure.canvas.draw()
    assert "90.0% of the variance" in figure.axes[0].get_xlabel()
    assert len(figure.axes) == (1 if loss == "nothing finite" else 2)  # the colour bar


def test_without_matplotlib_an_error_says_what_to_install(tmp_path, monkeypatch):
    trajectory = kc.callbacks.Trajectory()
    train_under(quadratic(), trajectory)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        trajectory.plot(tmp_path / "trajectory.png", X, Y)


def test_errors_say_what_to_do(tmp_path):
    trajectory = kc.callbacks.Trajectory()
    with pytest.raises(ValueError, match="Train with it first"):
        trajectory.plot(tmp_path / "trajectory.png", X, Y)
    train_under(quadratic(), trajectory, epochs=1)
    with pytest.raises(ValueError, match="2 distinct points"):
        trajectory.data()
    train_under(quadratic(keras.optimizers.SGD(0.0)), trajectory)
    with pytest.raises(ValueError, match="1 distinct points"):
        trajectory.data()

    model = quadratic()
    train_under(model, trajectory)
    with pytest.raises(ValueError, match="was given none"):
        trajectory.plot(tmp_path / "trajectory.png")
    with pytest.raises(ValueError, match="read only once"):
        trajectory.surface(iter([(X, Y)]))
    with pytest.raises(ValueError, match="path of a file that ends with .png"):
        trajectory.plot(tmp_path / "trajectory.txt", X, Y)
    for wrong in ({"resolution": 1}, {"margin": -1}, {"margin": float("nan")}):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
            trajectory.surface(X, Y, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frequency": 0},
        {"frequency": "step"},
        {"maximum_points": 2},
        {"maximum_points": 5.0},
        {"dtype": "int32"},
        {"dtype": "float"[::-1]},
        {"dtype": None},
    ],
)
def test_arguments_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kc.callbacks.Trajectory(**wrong)


def test_a_file_that_cannot_be_written_is_found_before_training(tmp_path):
    with pytest.raises(ValueError, match=".npy"):
        kc.callbacks.Trajectory(file=tmp_path / "points.txt")
    (tmp_path / "a").write_text("")
    with pytest.raises(OSError, match=r"Trajectory\(file=...\)"):
        kc.callbacks.Trajectory(file=tmp_path / "a" / "points.npy")


def test_steps_are_counted_without_a_look_at_the_end_of_batches():
    for frequency in ("epoch", 1):
        trajectory = kc.callbacks.Trajectory(frequency)
        assert keras.callbacks.CallbackList([trajectory])._async_train == (
            keras.callbacks.CallbackList([])._async_train
        )


def test_a_model_without_weights_to_train():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, trainable=False)])
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match=r"none that are trained yet. Build it.*keras.Input"):
        model.fit(
            np.ones((4, 2)), np.ones((4, 1)), callbacks=[kc.callbacks.Trajectory()], verbose=0
        )
