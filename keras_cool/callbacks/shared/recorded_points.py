"""Points of a path, each a vector of weights at its time: kept in memory, or in a `.npy` file."""

import numpy as np

from keras_cool.callbacks.shared.files import replacing


class PointsInMemory:
    """Points that are lost with the process.

    Args:
        size: Integer, the number of weights of a point.
        dtype: String or NumPy type of the weights.
    """

    def __init__(self, size, dtype):
        self._dtype = _row_type(size, dtype)
        self._rows = []

    @property
    def times(self):
        """The times of the points, increasing integers."""
        return [int(row["time"]) for row in self._rows]

    @property
    def weights(self):
        """The points: a sequence of arrays `(size,)`."""
        return [row["weights"] for row in self._rows]

    def append(self, time, arrays):
        """Adds a point at the end.

        Args:
            time: Integer.
            arrays: Iterable of arrays that have `size` weights together.
        """
        self._rows.append(_row(self._dtype, time, arrays))

    def keep(self, indices):
        """Drops all points but those with the given increasing indices."""
        self._rows = [self._rows[i] for i in indices]


class PointsInFile:
    """Points that `numpy.load(file)` reads, whole after every point, and none of them in memory.

    Args:
        file: `Path` of the file.
        size, dtype: As for `PointsInMemory`.
        go_on: Boolean, whether to go on with the points that the file has, if it exists. Else it
            begins empty.

    Raises:
        ValueError: If the file has points of another size or type.
    """

    def __init__(self, file, size, dtype, go_on=False):
        self._file = file
        self._dtype = _row_type(size, dtype)
        self.times = []
        if go_on and file.exists():
            self.times = [int(time) for time in self._checked(np.load(file, mmap_mode="r"))["time"]]
        else:
            self._write([])

    @property
    def weights(self):
        return np.load(self._file, mmap_mode="r")["weights"] if self.times else []

    def append(self, time, arrays):
        # The count in the header comes last: a process that ends before leaves the file as it was.
        # NumPy leaves room in the header for a count of any length.
        with self._file.open("r+b") as file:
            self._write_header(file, len(self.times))
            file.seek(self._dtype.itemsize * len(self.times), 1)
            file.write(_row(self._dtype, time, arrays).tobytes())
            file.truncate()
            file.flush()
            file.seek(0)
            self._write_header(file, len(self.times) + 1)
        self.times.append(time)

    def keep(self, indices):
        if len(indices) < len(self.times):
            rows = np.load(self._file, mmap_mode="r")
            self._write([rows[i] for i in indices])

    def _write(self, rows):
        with replacing(self._file) as new, new.open("wb") as file:
            self._write_header(file, len(rows))
            for row in rows:
                file.write(row.tobytes())
        self.times = [int(row["time"]) for row in rows]

    def _write_header(self, file, count):
        np.lib.format.write_array_header_1_0(
            file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (count,),
            },
        )

    def _checked(self, rows):
        if rows.dtype != self._dtype:
            raise ValueError(
                f"{str(self._file)!r} has points of the type {rows.dtype}, and the model's are "
                f"{self._dtype}: it is the path of another model. Give another `file`, or remove "
                "it to begin anew."
            )
        return rows


def _row_type(size, dtype):
    return np.dtype([("time", np.int64), ("weights", dtype, (size,))])


def _row(dtype, time, arrays):
    row = np.empty((), dtype)
    row["time"] = time
    row["weights"] = np.concatenate([np.ravel(array) for array in arrays])
    return row
