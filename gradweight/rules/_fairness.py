"""The equation that proportional and alpha-fair compromises come down to, and its Newton iteration."""

from __future__ import annotations

import math

from ..rule import Array, array_namespace
from ._linalg import _identity, _like, _matvec
from ._quadratic import least, positive_definite_inverse, resolved


def fair_coordinates(cosine: Array, b: Array, beta: float) -> Array:
    """The positive y with ``C y = b y**-beta``, zeros if there is none: (m, m), (m,) -> (m,).

    It is where the convex function ``y' C y / 2 + sum_i b_i phi(y_i)`` is least, ``phi(y) = -log y`` for beta = 1 and
    ``y**(1 - beta) / (beta - 1)`` otherwise, and Newton's method finds it: 20 steps for beta = 1, 30 above and
    20 + 10/beta below, each as long as lowers the function most among twelve lengths, ending in full steps, which
    double the number of right digits. There is none if 0 is a convex combination of the gradients.

    Args:
        cosine: C, correlations; the rows of zero gradients are empty, and their y is 0.
        b: positive, the largest of them 1.
        beta: above 0.
    """
    xp = array_namespace(cosine)
    eps = xp.finfo(cosine.dtype).eps
    present = xp.linalg.diagonal(cosine)
    matrix = cosine + _identity(cosine) * (1 - present)[:, None]
    # halves and doubles of the Newton step, longer than 1 because far out on -log y it only doubles y
    lengths = 2.0 ** xp.arange(-7, 5, **_like(cosine))[:, None]

    def value(y: Array) -> Array:
        phi = -xp.log(y) if beta == 1 else y ** (1 - beta) / (beta - 1)
        return xp.sum(y * _matvec(matrix, y) / 2 + b * phi, axis=-1)

    y = b ** (1 / (1 + beta))
    y = y * (xp.sum(b * y ** (1 - beta)) / xp.clip(xp.sum(y * _matvec(matrix, y)), eps, None)) ** (1 / (1 + beta))
    for _ in range(20 if beta == 1 else 20 + 10 * max(1, math.ceil(1 / beta))):
        force = b * y**-beta
        pull = _matvec(matrix, y)
        # the floor changes nothing that rounding of C does not, and keeps the matrix regular where there is no solution
        curvature = xp.clip(beta * force / y, 64 * eps, None)
        inverse = positive_definite_inverse(matrix + _identity(matrix) * curvature[:, None])
        change = _matvec(inverse, force - pull)
        to_the_boundary = 0.95 * xp.min(xp.where(change < 0, -y / xp.where(change < 0, change, -1), xp.inf))
        length = xp.minimum(lengths, to_the_boundary)
        tried = y + length * change
        best = least(xp.where(xp.min(tried, axis=-1) > 0, value(tried), xp.inf)[:, None])
        # nearer than this, differences of the function are rounding errors, and the full step is right
        near = xp.sum((force - pull) * change) < 1e-5 * xp.sum(y * force)
        full = y + xp.clip(to_the_boundary, None, 1) * change
        # 1 / eps: so far out only where there is no solution, and further out lies overflow
        y = xp.clip(xp.where(near, full, xp.sum(best * tried, axis=0)), None, 1 / eps)
    y = y * present
    return xp.where(resolved(cosine, y[None, :], y[None, :]), y, 0)
