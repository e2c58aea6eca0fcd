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
    from matplotlib.figure import Figure  # without pyplot: it draws with Agg, on any machine

    figure = Figure(figsize=(8, 6), layout="constrained")
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.subplots()
    axes.set(xticks=[], yticks=[], xlabel="first principal component", ylabel="second")
    axes.set_title("words, each with its nearest ones in the same color", fontsize=11)
    axes.margins(0.1)
    points = principal(vectors[[word for group in groups for word in group]])
    axes.scatter(*points.T, s=0)
    figure.draw_without_rendering()  # which fixes the scale
    pixels = axes.transData.transform(points)
    covered = [(x - 3, y - 3, x + 3, y + 3) for x, y in pixels]
    places = iter(zip(points, pixels))
    for number, group in enumerate(groups):
        for i, word in enumerate(group):
            point, pixel = next(places)
            color, first = f"C{number}", i == 0
            axes.scatter(*point, s=70 if first else 22, color=color)
            weight = {"fontsize": 13, "fontweight": "bold"} if first else {"fontsize": 10}
            style = {"textcoords": "offset pixels", "color": color, **weight}
            label = axes.annotate(vocabulary[word], point, xytext=(0, 0), **style)
            extent = label.get_window_extent(renderer)
            size = np.array([extent.width, extent.height])
            corner = _free_place(pixel, size, covered, axes.bbox.extents)
            label.set_position(corner - pixel)
            covered.append((*corner, *(corner + size)))
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=figure.dpi)


def _free_place(point, size, covered, frame):
    """The lower left corner of a label near its point, where it hides least and is in the frame."""
    best, least = None, np.inf
    for distance in range(5, 60, 5):
        for angle in np.arange(0, 2 * np.pi, np.pi / 8):
            direction = np.array([np.cos(angle), np.sin(angle)])
            corner = point + direction * (distance + size / 2) - size / 2
            hidden = sum(_common_area(corner, corner + size, box) for box in covered)
            hidden += np.prod(size) - _common_area(corner, corner + size, frame)
            if hidden < least - 1e-6:
                best, least = corner, hidden
        if least < 1:
            break
    return best


def _common_area(low, high, box):
    sides = np.minimum(high, box[2:]) - np.maximum(low, box[:2])
    return np.prod(np.maximum(sides, 0))
