"""Quadratic programs that the rules share: exact for few losses, of fixed length for many, no host synchronisation.

All are the minimisation of ``y' A y / 2 + c' y`` over ``y >= 0``. Up to 8 variables it is done by trying every set of
free variables ("face") as one batch of linear systems; beyond that by an interior-point method with a fixed number of
steps, which ends in an exact solve on the face that it has found.

Products are sums of elementwise products: matrix multiplication may be set to TF32, or to bfloat16 by autocast, for
the network's sake, and eight digits less would undo everything here.
"""

from __future__ import annotations

from ..rule import Array, array_namespace
from ._linalg import _identity, _like, _matvec, psd_inverse

MOST_FACES_OF = 8

INTERIOR_STEPS = 30


def nonnegative_minimiser(matrix: Array, linear: Array) -> Array:
    """The minimiser of ``y' A y / 2 + c' y`` over ``y >= 0``, for each row c: (n, n), (r, n) -> (r, n).

    For n up to 8 it is the solution on one face, that with the least optimality residual ``max_i |min(y_i, s_i)|``,
    s = A y + c. For larger n it is the solution on the face which 30 steps of an interior-point method end on, or,
    where its residual is smaller, the last interior point. `optimality_residual` bounds the error of either: with
    residual h, ``|V (y - y*)|^2 <= h sum_i (y_i + y*_i + s_i + s*_i)`` for A = V'V.

    Args:
        matrix: A, symmetric positive semi-definite, diagonal entries between 1 and 2, or 0 with the row and column.
        linear: rows c in the range of A, with entries of the size of 1.
    """
    if matrix.shape[-1] <= MOST_FACES_OF:
        xp = array_namespace(matrix)
        free = all_faces(matrix)
        candidates = face_minimisers(matrix, linear, free[:, None, :], 0 * linear)
        best = least(optimality_residual(matrix, linear, candidates))
        return xp.clip(xp.sum(candidates * best[:, :, None], axis=0), 0, None)
    return _interior_minimiser(matrix, linear)


def optimality_residual(matrix: Array, linear: Array, y: Array) -> Array:
    """``max_i |min(y_i, (A y + c)_i)|``, zero exactly at the minimiser: (n, n), (r, n), (..., r, n) -> (..., r)."""
    xp = array_namespace(matrix)
    return xp.max(xp.abs(xp.minimum(y, _matvec(matrix, y) + linear)), axis=-1)


def resolved(cosine: Array, y: Array, target: Array) -> Array:
    """Whether floating point can tell that ``p = sum_i y_i u_i`` conflicts with nothing: (m, m), (r, m) -> (r,).

    ``p`` is the projection of ``sum_i target_i u_i`` on a cone in which nothing conflicts, so ``|p|^2 = p . target``.
    What is left after everything has cancelled is a rounding error of some direction, and an optimizer such as Adam
    makes a full step of the tiniest: it has to be zero instead. True where ``|p|`` stands out of the rounding errors
    and its cosine with every gradient is above ``-8 sqrt(eps)`` (-1.2e-7 at float64).
    """
    xp = array_namespace(cosine)
    eps = xp.finfo(cosine.dtype).eps
    tolerance = 8 * eps**0.5
    slack = _matvec(cosine, y)
    squared = xp.sum(target * slack, axis=-1)
    length = xp.sqrt(xp.clip(squared, 0, None))
    rounding = 4 * cosine.shape[-1] * eps * xp.sum(xp.abs(y), axis=-1)
    return (
        (squared > rounding * xp.sum(xp.abs(target), axis=-1))
        & (rounding <= tolerance * length)
        & (xp.min(slack, axis=-1) >= -tolerance * length)
    )


def all_faces(matrix: Array) -> Array:
    """Each of the 2**n sets of n variables as a row of ones and zeros: (n, n) -> (2**n, n)."""
    xp = array_namespace(matrix)
    n = matrix.shape[-1]
    kwargs = _like(matrix, dtype=xp.int64)
    return xp.astype(xp.arange(2**n, **kwargs)[:, None] // 2 ** xp.arange(n, **kwargs) % 2, matrix.dtype)


def least(values: Array) -> Array:
    """A one in each column where it is least, zeros elsewhere: (f, r) -> (f, r). Not a number counts as largest."""
    xp = array_namespace(values)
    values = xp.where(xp.isnan(values), xp.inf, values)
    index = xp.arange(values.shape[0], **_like(values, dtype=xp.int64))
    return xp.astype(index[:, None] == xp.argmin(values, axis=0)[None, :], values.dtype)


def face_minimisers(matrix: Array, linear: Array, free: Array, start: Array) -> Array:
    """The y, zero where ``free`` is, with ``(A y + c)_i = 0`` where it is one: (n, n), (r, n), (..., n) -> (..., n).

    Where that does not determine y, it is one near ``start``.
    """
    inverse = psd_inverse(matrix * free[..., :, None] * free[..., None, :])
    y = start * free
    # the second time is one step of iterative refinement
    for _ in range(2):
        y = y - _matvec(inverse, (_matvec(matrix, y) + linear) * free)
    return y


def _interior_minimiser(matrix: Array, linear: Array) -> Array:
    """Mehrotra's predictor and corrector for ``s = A y + c``, ``y s = 0``, then one exact solve on the face found."""
    xp = array_namespace(matrix)
    eps = xp.finfo(matrix.dtype).eps
    # the row of a zero gradient is empty: give it a diagonal, and its y is driven to zero like any other
    empty = xp.astype(xp.linalg.diagonal(matrix) == 0, matrix.dtype)
    regular = matrix + _identity(matrix) * empty[:, None]
    c = linear + empty

    # where more variables are free than A has rank, slack / y alone would leave the matrix singular in the end
    regularisation = eps**0.55

    def longest(value: Array, change: Array) -> Array:
        """The share of the step, at most 1, that keeps value + change positive."""
        ratio = xp.where(change < 0, -value / xp.where(change < 0, change, -1), xp.inf)
        return xp.clip(xp.min(ratio, axis=-1), None, 1)[:, None]

    y = 0 * linear + 1
    slack = y
    for _ in range(INTERIOR_STEPS):
        residual = _matvec(regular, y) + c - slack
        gap = xp.mean(y * slack, axis=-1)[:, None]
        inverse = positive_definite_inverse(regular + _identity(matrix) * (slack / y + regularisation)[:, :, None])
        dy = -_matvec(inverse, residual + slack)
        ds = -slack - slack / y * dy
        share = xp.minimum(longest(y, dy), longest(slack, ds))
        predicted = xp.mean((y + share * dy) * (slack + share * ds), axis=-1)[:, None]
        # below eps the slacks are rounding errors of A y + c, and a step would chase those
        target = xp.clip(gap * (predicted / gap) ** 3, 1e-2 * eps, None)
        correction = (target - dy * ds) / y
        dy = -_matvec(inverse, residual + slack - correction)
        ds = -slack + correction - slack / y * dy
        share = 0.995 * xp.minimum(longest(y, dy), longest(slack, ds))
        y, slack = y + share * dy, slack + share * ds
    # where y_i and its slack are both nearly zero either may be the one that is zero: try several dividing lines
    thresholds = 10.0 ** (2 * xp.arange(-4, 5, **_like(matrix)))[:, None, None]
    free = xp.astype(y > thresholds * slack, matrix.dtype) * (1 - empty)
    candidates = xp.concat([face_minimisers(matrix, linear, free, y), (y * xp.astype(y > slack, y.dtype))[None]])
    best = least(optimality_residual(matrix, linear, candidates))
    return xp.clip(xp.sum(candidates * best[:, :, None], axis=0), 0, None) * (1 - empty)


def positive_definite_inverse(matrix: Array) -> Array:
    """The inverse of positive definite matrices, by sweeping one row after the other: (..., n, n) -> (..., n, n)."""
    xp = array_namespace(matrix)
    identity = _identity(matrix)
    scale = 1 / xp.sqrt(xp.linalg.diagonal(matrix))
    swept = matrix * scale[..., :, None] * scale[..., None, :]
    for k in range(matrix.shape[-1]):
        column = swept[..., :, k]
        pivot = xp.clip(column[..., k], xp.finfo(matrix.dtype).eps, None)[..., None, None]
        vector = column - identity[k, :]
        swept = swept - vector[..., :, None] * vector[..., None, :] / pivot
        swept = swept - 2 * identity[:, k, None] * identity[k, :]
    return -swept * scale[..., :, None] * scale[..., None, :]
