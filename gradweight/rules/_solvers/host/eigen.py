"""Eigenvalues on the host, by LAPACK, for gradients of very different norms, too."""

from __future__ import annotations

import numpy as np

from ....rule import Array
from ..rounding import resolved_eigenvalues


def eigh(matrix: Array) -> tuple[Array, Array] | None:
    """Eigenvalues, in no order, and eigenvectors in the columns of V: (m, m) -> (m,), (m, m).

    LAPACK's eigenvalues are right to rounding errors of the largest, which is all that there is to know where the
    diagonal entries are of one size. Small ones of a matrix D C D, D diagonal and C of diagonal 1, have more digits:
    C's eigenvalues that stand out make a factor, and the squares of singular values of D times that are the
    eigenvalues. None where those are more than 1e4 times as large as one another, and lose digits all the same.
    """
    m = len(matrix)
    active = np.flatnonzero(matrix.diagonal() > 0)
    eigenvalues, vectors = np.zeros(m), np.eye(m)
    if len(active):
        solved = _of_positive_diagonal(matrix if len(active) == m else matrix[np.ix_(active, active)])
        if solved is None:
            return None
        eigenvalues[active], vectors[np.ix_(active, active)] = solved
    return eigenvalues.astype(matrix.dtype), vectors.astype(matrix.dtype)


def _of_positive_diagonal(matrix: Array) -> tuple[Array, Array] | None:
    a = matrix.astype(np.float64)
    squared = a.diagonal()
    eigenvalues, vectors = np.linalg.eigh(a)
    if squared.max() <= 2 * squared.min() or eigenvalues[0] > 1e-4 * eigenvalues[-1]:
        return eigenvalues, vectors
    norms = np.sqrt(squared)
    of_correlations, vectors = np.linalg.eigh(a / norms / norms[:, None])
    kept = resolved_eigenvalues(of_correlations, vectors, np.ones_like(norms, dtype=matrix.dtype))
    factor = norms[:, None] * vectors[:, kept] * np.sqrt(of_correlations[kept])
    left, singular, _ = np.linalg.svd(factor)
    if singular[-1] < 1e-4 * singular[0]:
        return None
    return np.append(singular**2, np.zeros(len(norms) - len(singular))), left
