"""PyTorch: lists of tensors as one long vector, and rows of a matrix."""

import math

import torch


def flattened(tensors, dtype):
    """Returns the entries of a list of tensors as one vector of the dtype."""
    return torch.cat([t.reshape(-1) for t in tensors]).to(getattr(torch, dtype))


def unflattened(vector, like):
    """Returns the entries of a vector as a list of tensors of the shapes and dtypes of `like`."""
    parts = vector.split([math.prod(t.shape) for t in like])
    return [p.view(t.shape).to(t.dtype) for p, t in zip(parts, like, strict=True)]


def packed(tensors):
    """Returns a list of tensors in the form in which a loop combines them fastest: one vector, as
    each operation on a tensor has its price."""
    first = tensors[0]
    is_alike = all(t.dtype == first.dtype and t.device == first.device for t in tensors)
    return [torch.cat([t.reshape(-1) for t in tensors])] if is_alike else list(tensors)


def unpacked(tensors, like):
    """Returns the list that was `packed`; `like` has its shapes and dtypes."""
    if len(tensors) == len(like):
        return [t.view(x.shape) for t, x in zip(tensors, like, strict=True)]
    return unflattened(tensors[0], like)


def with_row(matrix, place, row):
    """Returns a matrix with another row at `place`; it may take the memory of the given one."""
    matrix[place] = row
    return matrix


def inner(a, b):
    """Returns the inner product of two vectors."""
    return torch.dot(a, b)


def largest(a):
    """Returns the largest absolute value in a vector."""
    return a.abs().max()


def own(tensor):
    """Returns a copy, whose memory `with_row` may take."""
    return tensor.clone()


def product(matrix, vector):
    """Returns the product of a matrix and a vector."""
    return torch.mv(matrix, vector)


def identity_like(matrix):
    """Returns the identity of the size of a square matrix."""
    return torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)


def with_products(matrix, scale, pairs):
    """Returns `scale * matrix` and the sum of the outer products of pairs of vectors; it may take
    the memory of the matrix."""
    columns, rows = (torch.stack(vectors) for vectors in zip(*pairs, strict=True))
    return torch.addmm(matrix, columns.T, rows, beta=scale, out=matrix)


def combined(factors, rows, factor, vector):
    """Returns the sum of the rows of a matrix times factors, and of a vector times one; factors are
    arrays of `scalars.arrays`."""
    total = torch.from_numpy(factors).to(rows) @ rows  # three times as fast as `addmv`
    return total.add_(vector, alpha=float(factor))


def solved(matrix, shift, vector):
    """Returns the solution `x` of `(matrix + shift) x = vector`, of a symmetric matrix without
    negative eigenvalues and a number of `scalars`; not finite where rounding keeps it from one."""
    shifted = matrix.clone()
    shifted.diagonal().add_(shift)
    factor, info = torch.linalg.cholesky_ex(shifted)
    solution = torch.cholesky_solve(vector[:, None], factor)[:, 0]
    return torch.where(info == 0, solution, torch.nan)
