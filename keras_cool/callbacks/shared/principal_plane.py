"""The plane of the first two principal directions of points with very many coordinates."""

from typing import NamedTuple

import numpy as np

BLOCK = 2**16  # coordinates at a time, so that of all points one block is in float64


class PrincipalPlane(NamedTuple):
    """The first two principal directions of `n` points, and the points seen along them."""

    coordinates: np.ndarray  # (n, 2), from the last point
    directions: np.ndarray  # (2, size), orthonormal
    explained_variance_ratio: np.ndarray  # (2,)


def principal_plane(points):
    """Principal component analysis of a few points with very many coordinates.

    The singular value decomposition of the centred points comes from the eigenvectors of the small
    `n x n` matrix of their inner products. Each direction has the sign that makes the largest
    coordinate along it positive.

    Args:
        points: Sequence of `n` arrays `(size,)`.

    Returns:
        A `PrincipalPlane`, or `None` if the points lie on one line.
    """
    gram = sum(block @ block.T for block in _centred_blocks(points))
    variances, vectors = np.linalg.eigh(gram)
    variances, vectors = variances[::-1], vectors[:, ::-1]
    if len(points) < 3 or variances[1] <= 1e-12 * variances[0]:
        return None

    directions = np.concatenate(
        [vectors[:, :2].T @ block for block in _centred_blocks(points)], axis=1
    )
    directions[0] /= np.linalg.norm(directions[0])
    directions[1] -= (directions[0] @ directions[1]) * directions[0]
    directions[1] /= np.linalg.norm(directions[1])

    coordinates = sum(
        block @ directions[:, start : start + BLOCK].T
        for start, block in zip(_starts(points), _centred_blocks(points), strict=True)
    )
    coordinates = coordinates - coordinates[-1]
    largest = coordinates[np.argmax(np.abs(coordinates), axis=0), [0, 1]]
    signs = np.where(largest < 0, -1.0, 1.0)
    return PrincipalPlane(
        coordinates * signs, directions * signs[:, None], variances[:2] / np.trace(gram)
    )


def _starts(points):
    return range(0, len(points[0]), BLOCK)


def _centred_blocks(points):
    for start in _starts(points):
        block = np.stack([p[start : start + BLOCK] for p in points]).astype("float64")
        yield block - block.mean(axis=0)
