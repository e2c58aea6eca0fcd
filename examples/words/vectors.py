"""What becomes of word vectors: the nearest words, files that other programs read, a picture."""

from pathlib import Path

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors with length 1; zero stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest(vectors: np.ndarray, word: int, count: int) -> np.ndarray:
    """The words whose vectors have the highest cosines with that of a word, without itself."""
    directions = unit(vectors)
    cosines = directions @ directions[word]
    cosines[word] = -np.inf
    return np.argsort(-cosines, kind="stable")[:count]


def far_apart(vectors: np.ndarray, count: int, among: slice = slice(50, 500)) -> list[int]:
    """Chooses frequent words in different directions: each has the lowest cosine with the nearest
    of those before it."""
    candidates = np.arange(len(vectors))[among]
    if len(candidates) < count:
        candidates = np.arange(len(vectors))
    directions = unit(vectors)[candidates]
    chosen, highest = [0], directions @ directions[0]
    while len(chosen) < min(count, len(candidates)):
        chosen.append(int(np.argmin(highest)))
        highest = np.maximum(highest, directions @ directions[chosen[-1]])
    return [int(candidates[i]) for i in chosen]


def write(path: Path, vocabulary: list[str], vectors: np.ndarray) -> None:
    """Writes the format of the program word2vec that gensim's `KeyedVectors` loads.

    The first line has the number of words and of coordinates. A word, a space and its coordinates
    follow: float32 in little-endian order if the file ends with `.bin`, decimal numbers otherwise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write("{} {}\n".format(*vectors.shape).encode())
        for word, vector in zip(vocabulary, vectors, strict=True):
            if path.suffix == ".bin":
                coordinates = vector.astype("<f4").tobytes()
            else:
                coordinates = " ".join(f"{c:.9g}" for c in vector).encode()
            file.write(word.encode() + b" " + coordinates + b"\n")


def principal(vectors: np.ndarray) -> np.ndarray:
    """The first two principal components of the directions, shape `(words, 2)`."""
    directions = unit(vectors.astype("float64"))
    directions = directions - directions.mean(axis=0)
    _, _, components = np.linalg.svd(directions, full_matrices=False)
    return directions @ components[:2].T


def draw(vectors: np.ndarray, vocabulary: list[str], groups: list[list[int]], output: Path) -> None:
    """Draws groups of words, the first of each in bold, by the principal components of all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: on any machine

    figure = Figure(figsize=(8, 6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    points = principal(vectors[[word for group in groups for word in group]])
    axes.set(xticks=[], yticks=[], xlabel="first principal component", ylabel="second")
    axes.margins(0.12)
    axes.scatter(*points.T, s=0)
    figure.draw_without_rendering()  # which fixes the scale
    taken, start = list(axes.transData.transform(points)), 0
    obstacles = [(x - 3, y - 3, x + 3, y + 3) for x, y in taken]
    for number, group in enumerate(groups):
        of_group = points[start : start + len(group)]
        start += len(group)
        sizes = [70] + [22] * (len(group) - 1)
        axes.scatter(*of_group.T, s=sizes, color=f"C{number}")
        for i, (word, point) in enumerate(zip(group, of_group, strict=True)):
            label = axes.annotate(
                vocabulary[word],
                point,
                xytext=(0, 0),
                textcoords="offset pixels",
                color=f"C{number}",
                fontsize=13 if i == 0 else 10,
                fontweight="bold" if i == 0 else "normal",
            )
            box = label.get_window_extent(canvas.get_renderer())
            x, y = axes.transData.transform(point)
            offset = _free_place(x, y, box.width, box.height, obstacles)
            label.set_position(offset)
            left, bottom = x + offset[0], y + offset[1]
            obstacles.append((left, bottom, left + box.width, bottom + box.height))
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=figure.dpi)


def _free_place(x, y, width, height, obstacles):
    """Where a label of a point covers least: its offset, near to it if it can be."""
    best = None
    for distance in range(5, 60, 5):
        for angle in np.arange(0, 2 * np.pi, np.pi / 8):
            center = np.array([np.cos(angle), np.sin(angle)])
            center *= distance + np.array([width, height]) / 2
            left, bottom = center - np.array([width, height]) / 2
            covered = sum(
                max(0, min(x + left + width, right) - max(x + left, x_of))
                * max(0, min(y + bottom + height, top) - max(y + bottom, y_of))
                for x_of, y_of, right, top in obstacles
            )
            if best is None or covered < best[0]:
                best = covered, (left, bottom)
        if best[0] == 0:
            break
    return best[1]
