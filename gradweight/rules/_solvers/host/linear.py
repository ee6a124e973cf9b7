"""Systems of linear equations on the host: by LAPACK where they are regular."""

from __future__ import annotations

import numpy as np

from ....rule import Array

_SMALLEST_PIVOT = 1e-3
"""Of Cholesky's factor, in units of the largest: below it a matrix is left to diagonal pivoting."""


def solve_psd(matrix: Array, rhs: Array, scale: float | None = None) -> Array | None:
    """x with ``matrix @ x = rhs`` for one regular system: (n, n), (n,) -> (n,). None for others."""
    if matrix.ndim > 2 or scale is not None:
        return None
    x = _regular(matrix.astype(np.float64), rhs.astype(np.float64))
    return None if x is None else x.astype(matrix.dtype)


def shortest_affine(cosine: Array, active: Array) -> Array | None:
    """The a of sum n, the number of active gradients, whose ``sum_i a_i u_i`` is shortest: (m, m), (m,) -> (m,).

    ``a = n C^-1 1 / (1' C^-1 1)``. None where gradients are nearly dependent.
    """
    indices = np.flatnonzero(active)
    a = np.zeros(len(cosine))
    if len(indices):
        sub = cosine if len(indices) == len(cosine) else cosine[np.ix_(indices, indices)]
        x = _regular(sub.astype(np.float64), np.ones(len(indices)))
        if x is None:
            return None
        a[indices] = x * (len(indices) / x.sum())
    return a.astype(cosine.dtype)


def evenly_shared(cosine: Array, active: Array, a: Array) -> Array | None:
    """``a`` itself, where gradients are not nearly dependent."""
    indices = np.flatnonzero(active)
    sub = cosine if len(indices) == len(cosine) else cosine[np.ix_(indices, indices)]
    return a if _independent(np.linalg.cholesky(sub.astype(np.float64)).diagonal()) else None


def _independent(pivots: Array) -> bool:
    return not len(pivots) or bool(pivots.min() >= _SMALLEST_PIVOT * pivots.max())


def _regular(matrix: Array, rhs: Array) -> Array | None:
    pivots = np.linalg.cholesky(matrix).diagonal()  # raises if it is not positive definite
    if not _independent(pivots):
        return None
    inverse = np.linalg.inv(matrix)
    x = inverse @ rhs
    return x + inverse @ (rhs - matrix @ x)
