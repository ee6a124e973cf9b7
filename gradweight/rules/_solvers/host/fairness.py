"""Newton's method for ``C y = (y / r)**-beta`` on the host: until it has converged."""

from __future__ import annotations

import numpy as np

from ....rule import Array
from ..cone import shortest_combination

_MOST_STEPS = 100
_LENGTHS = 2.0 ** np.arange(-7, 5)[:, None]
"""Of a step, longer than 1 because far out on -log y Newton's only doubles y."""


def fair_minimiser(cosine: Array, root: Array, beta: float) -> Array | None:
    """Where ``y' C y / 2 + sum_i r_i^beta phi(y_i)`` is least, or 0 where it has no minimum: (m, m), (m,) -> (m,).

    None where it does not converge.
    """
    active = np.flatnonzero(cosine.diagonal() > 0)
    y = np.zeros_like(root)
    if len(active):
        matrix, roots = cosine[np.ix_(active, active)].astype(np.float64), root[active].astype(np.float64)
        found = _newton(matrix, roots, beta, cosine[np.ix_(active, active)])
        if found is None:
            return None
        y[active] = found
    return y


def _newton(matrix: Array, root: Array, beta: float, correlations: Array) -> Array | None:
    m, eps = len(root), float(np.finfo(correlations.dtype).eps)

    def value(y: Array) -> Array:
        phi = -root * np.log(y) if beta == 1 else y * (y / root) ** -beta / (beta - 1)
        return ((y @ matrix) * y / 2 + phi).sum(axis=-1)

    y = root ** (beta / (1 + beta))
    pull = matrix @ y
    y = y * ((y * (y / root) ** -beta).sum() / max((y * pull).sum(), eps)) ** (1 / (1 + beta))
    diagonal = np.arange(m)
    decrement, suspected = np.inf, False
    for _ in range(_MOST_STEPS):
        force, pull = (y / root) ** -beta, matrix @ y
        if not suspected and force.min() <= 4 * m * eps * y.sum():
            # a gain is a rounding error: that of a short gradient in conflict, or there is no solution
            suspected = True
            if not shortest_combination(correlations, np.ones_like(correlations[0]))[1]:
                return np.zeros_like(y)
        # the floor changes nothing that rounding of C does not, and keeps the matrix regular where there is no solution
        curvature = np.maximum(beta * force / y, 64 * eps)
        # scaled to a diagonal of 1, because y may differ by many orders of magnitude
        scale = 1 / np.sqrt(1 + curvature)
        hessian = matrix * scale * scale[:, None]
        hessian[diagonal, diagonal] += curvature * scale * scale
        gradient = force - pull
        change = scale * np.linalg.solve(hessian, scale * gradient)
        before, decrement = decrement, gradient @ change
        size = (y * force).sum()
        relative = change / y
        boundary = -0.95 / min(relative.min(), -1e-300)
        if decrement < 1e-5 * size:
            # from here on the number of right digits doubles, until rounding ends that
            y = y + min(boundary, 1) * change
            if np.abs(relative).max() < 1e-13 or (decrement >= before / 4 and decrement < 1e-18 * size):
                return y
            continue
        tried = y + np.minimum(_LENGTHS, boundary) * change
        values = value(np.maximum(tried, 1e-300))
        y = tried[np.argmin(np.where(np.isnan(values), np.inf, values))]
    return None
