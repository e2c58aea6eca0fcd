"""The data that `--data` names: loaded, checked, and told what is wrong with them."""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from program.errors import UserError, one_line, require

DOWNLOADS = ("mnist", "fashion_mnist")


class Data(NamedTuple):
    """Inputs `(n, d)`, `(n, h, w)` or `(n, h, w, c)`, and labels 0, 1, 2, ... of shape `(n,)`."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_data(name: str) -> Data:
    """Loads the data that `--data` names, and checks it."""
    if name == "digits":
        data = load_digits()
    elif name in DOWNLOADS:
        data = download(name)
    else:
        data = load_file(Path(name))
    return checked(data, f"--data {name}")


def load_digits() -> Data:
    """Loads the bundled 8x8 digits; the test set is a stratified fifth, the same in every run."""
    require("sklearn", "scikit-learn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        digits.images, digits.target, test_size=360, stratify=digits.target, random_state=0
    )
    return Data(x_train, y_train, x_test, y_test)


def download(name: str) -> Data:
    """Lets Keras download one of its data sets, or read the copy that it downloaded before."""
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception where the download fails
        raise UserError(
            f"--data {name} could not be downloaded ({one_line(error)}); "
            "check the connection, or take --data digits, which needs none"
        ) from error
    return Data(x_train, y_train, x_test, y_test)


def load_file(path: Path) -> Data:
    """Loads an `.npz` file."""
    if not path.is_file():
        known = ", ".join(("digits", *DOWNLOADS))
        raise UserError(f"--data {path}: no such file; give {known} or the path of an .npz file")
    save = "write it with numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in Data._fields}
            found = ", ".join(file.files) or "nothing"
    except Exception as error:  # zipfile, zlib and NumPy each have their own for a damaged file
        if "allow_pickle" in str(error):
            save += "; x.astype(float) and y.astype(str) make Python objects plain"
        raise UserError(f"--data {path}: not an .npz file of plain arrays; {save}") from error
    if missing := [key for key in Data._fields if key not in arrays]:
        raise UserError(f"--data {path}: {', '.join(missing)} missing, found {found}; {save}")
    return Data(**arrays)


def labels_advice(y: np.ndarray) -> str:
    """Says how labels of another kind become whole numbers."""
    if y.dtype.kind in "USOM":
        numbers = "classes, y_train = numpy.unique(y_train, return_inverse=True)"
        return f"from names: {numbers}; y_test = numpy.searchsorted(classes, y_test)"
    if y.ndim == 2 and y.shape[1] > 1:
        return "from one-hot: y.argmax(axis=1)"
    return "from numbers of another kind or in a column: y.reshape(-1).astype(int)"


def checked(data: Data, source: str) -> Data:
    """Gives the data with float32 inputs and int32 labels, or says what is wrong with it."""

    def check(condition: bool, problem: str) -> None:
        if not condition:
            raise UserError(f"{source}: {one_line(problem)}")

    def check_part(part: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shapes = "images (n, h, w) or (n, h, w, c), or flat features (n, d), at least one"
        check(x.ndim in (2, 3, 4) and x.size > 0, f"x_{part} has shape {x.shape}; give {shapes}")
        check(x.dtype.kind in "biuf", f"x_{part} has dtype {x.dtype}; give real numbers")
        given = f"y_{part} has dtype {y.dtype} and shape {y.shape}"
        check(
            y.ndim == 1 and y.dtype.kind in "iu",
            f"{given}; give one whole number an input, shape (n,); {labels_advice(y)}",
        )
        lengths = f"x_{part} has {len(x)} inputs and y_{part} {len(y)} labels"
        check(len(x) == len(y), f"{lengths}; give one label for each input")
        with np.errstate(over="ignore"):
            x = x.astype("float32")
        finite = bool(np.isfinite(x).all())
        check(finite, f"x_{part} has values that are not finite in float32; remove or replace them")
        return x, y

    x_train, y_train = check_part("train", data.x_train, data.y_train)
    x_test, y_test = check_part("test", data.x_test, data.y_test)
    shapes = f"the inputs of x_train have shape {x_train.shape[1:]}, of x_test {x_test.shape[1:]}"
    check(x_train.shape[1:] == x_test.shape[1:], f"{shapes}; give both the same")
    classes = np.unique(y_train)
    check(
        len(classes) > 1 and np.array_equal(classes, np.arange(len(classes))),
        f"the labels in y_train are {classes}; number them 0, 1, 2, ... without a gap, two at "
        "least: numpy.unique(y, return_inverse=True)[1]",
    )
    unknown = np.setdiff1d(y_test, classes)
    check(len(unknown) == 0, f"y_test has labels that y_train lacks, {unknown}; remove them")
    return Data(x_train, y_train.astype("int32"), x_test, y_test.astype("int32"))
