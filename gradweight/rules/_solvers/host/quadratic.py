"""Non-negative least squares on the host: all right-hand sides at once, by block principal pivoting."""

from __future__ import annotations

import numpy as np

from ....rule import Array
from ..active_sets import entering, up_to_the_boundary

_MOST_EXCHANGES = 12


def nonnegative_minimiser(matrix: Array, linear: Array) -> Array:
    """The minimiser of ``y' A y / 2 + c' y`` over ``y >= 0``, for each row c: (n, n), (r, n) -> (r, n).

    By block principal pivoting, and for the rows that it does not end for, which are those of dependent gradients, by
    Lawson and Hanson's method.

    Args:
        matrix: A, symmetric positive semi-definite, diagonal entries between 1 and 2, or 0 with the row and column.
        linear: rows c in the range of A, with entries of the size of 1.
    """
    a, c = matrix.astype(np.float64), linear.astype(np.float64)
    rounding = 4 * len(a) * float(np.finfo(matrix.dtype).eps)
    y, ended = _block_pivoting(a, c, rounding)
    if not ended.all():
        y[~ended] = _active_sets(a, c[~ended], rounding)
    return y.astype(matrix.dtype)


def _block_pivoting(a: Array, c: Array, rounding: float) -> tuple[Array, Array]:
    """y, and for which rows it has ended, at the minimum.

    A set of free variables is right if the minimum on it has no negative entry, and no negative slack outside. All that
    is wrong changes sides at once: Júdice and Pires, Computers and Operations Research 21(5), 1994; Kim and Park, SIAM
    Journal on Scientific Computing 33(6), 2011. Six exchanges do for a hundred random gradients, and all rows go
    through them together. Their rule for what goes in circles, one exchange at a time, is left to the other method.
    """
    y, free = np.zeros_like(c), c < -rounding
    ended = ~free.any(axis=1)
    rows = np.flatnonzero(~ended)
    for _ in range(_MOST_EXCHANGES):
        if not len(rows):
            break
        inside = free[rows]
        found = _on_faces(a, c[rows], inside, rounding)
        below = -rounding * (1 + np.add.reduce(np.abs(found), axis=1))
        wrong = np.where(inside, found, found @ a + c[rows]) < below[:, None]
        left = np.logical_or.reduce(wrong, axis=1)
        y[rows], ended[rows] = found, ~left
        rows = rows[left]
        free[rows] ^= wrong[left]
    # takes back out what dependent gradients were regularised by
    y += _on_faces(a, y @ a + c, free, rounding)
    np.maximum(y, 0, out=y)
    residual = np.abs(np.minimum(y, y @ a + c)).max(axis=1)
    return y, ended & (residual <= rounding * (1 + y.sum(axis=1)))


def _active_sets(a: Array, c: Array, rounding: float) -> Array:
    """Lawson and Hanson's method for each row: no step raises the objective, and it ends where none lowers it."""
    result = np.zeros_like(c)
    rows, y, slack, free, whole = np.arange(len(c)), result, c, result, np.ones((len(c), 1), dtype=bool)
    for step in range(3 * c.shape[1]):
        below = rounding * (1 + y.sum(axis=1, keepdims=True))
        # many at once is faster, one at a time cannot be in vain
        entered = entering(slack, free, whole, below, several=step % 2 == 0)
        left = (~whole | (entered != free)).any(axis=1)
        result[rows[~left]] = y[~left]
        if not left.any():
            return result
        rows, y, slack, free = rows[left], y[left], slack[left], entered[left]
        change = _on_faces(a, slack, free > 0, rounding)
        y, free, whole = up_to_the_boundary(y, change, free)
        slack = y @ a + c[rows]
    result[rows] = y
    return result


def _on_faces(a: Array, c: Array, free: Array, rounding: float) -> Array:
    """For each row, the minimum where only ``free`` variables may differ from 0, regularised by rounding errors."""
    largest = int(free.sum(axis=1).max())
    y = np.zeros_like(c)
    if largest > len(a) / 2 or len(a) <= 8:
        sub = a * (free[:, :, None] & free[:, None, :])
        diagonal = np.arange(len(a))
        sub[:, diagonal, diagonal] += np.where(free, rounding, 1)
        return np.linalg.solve(sub, np.where(free, -c, 0)[:, :, None])[:, :, 0]
    if largest:
        # the free variables first, and what fills a row up to the largest number of them is kept at 0
        order = np.argsort(~free, axis=1, kind="stable")[:, :largest]
        kept = np.take_along_axis(free, order, axis=1)
        sub = a[order[:, :, None], order[:, None, :]]
        sub *= kept[:, :, None] & kept[:, None, :]
        diagonal = np.arange(largest)
        sub[:, diagonal, diagonal] += np.where(kept, rounding, 1)
        rhs = np.where(kept, -np.take_along_axis(c, order, axis=1), 0)
        np.put_along_axis(y, order, np.linalg.solve(sub, rhs[:, :, None])[:, :, 0], axis=1)
    return y
