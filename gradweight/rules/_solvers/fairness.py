"""The equation that proportional and alpha-fair compromises come down to, and its Newton iteration."""

from __future__ import annotations

import math

from ...rule import Array, array_namespace
from .arrays import at_least, at_most, identity, like, matvec
from .cone import shortest_combination
from .forms import host_form
from .host import fairness as host
from .linear import solve
from .loops import compiled_once, repeated
from .quadratic import least
from .rounding import resolved

_STEPS_OF_TWO = 6


def fair_coordinates(cosine: Array, root: Array, beta: float) -> Array:
    """The positive y with ``C y = (y / r)**-beta``, zeros if there is none: (m, m), (m,) -> (m,).

    There is none if 0 is a convex combination of the gradients.

    Args:
        cosine: C, correlations; the rows of zero gradients are empty, and their y is 0.
        root: r, positive, the largest of them 1 or, for beta below 1, of ``r**beta``: the power itself, which the
            equation has as a factor, would underflow for large beta.
        beta: above 0.
    """
    xp = array_namespace(cosine)
    if cosine.shape[-1] == 2:
        y = _of_two(cosine[0, 1], root, beta) * xp.linalg.diagonal(cosine)
    else:
        y = fair_minimiser(cosine, root, beta)
    return xp.where(resolved(cosine, y[None, :], y[None, :]), y, 0)


@host_form(host.fair_minimiser)
def fair_minimiser(cosine: Array, root: Array, beta: float) -> Array:
    """Where the convex function ``y' C y / 2 + sum_i r_i^beta phi(y_i)`` is least: (m, m), (m,) -> (m,).

    Where it has no minimum, some y far out, and 0 for beta above 1, for which far out is not far enough to be seen.

    ``phi(y) = -log y`` for beta = 1 and ``y**(1 - beta) / (beta - 1)`` otherwise. Newton's method finds it: 20 steps
    for beta = 1, 30 above (40 above 10) and 20 + 10/beta below, each as long as lowers the function most among twelve
    lengths, ending in full steps, which double the number of right digits.
    """
    xp = array_namespace(cosine)
    eps = xp.finfo(cosine.dtype).eps
    present = xp.linalg.diagonal(cosine)
    matrix = cosine + identity(cosine) * (1 - present)[:, None]
    # halves and doubles of the Newton step, longer than 1 because far out on -log y it only doubles y
    lengths = 2.0 ** xp.arange(-7, 5, **like(cosine))[:, None]

    y = root ** (beta / (1 + beta))
    y = y * (xp.sum(y * (y / root) ** -beta) / at_least(xp.sum(y * matvec(matrix, y)), eps)) ** (1 / (1 + beta))
    steps = 20 if beta == 1 else 40 if beta > 10 else 20 + 10 * max(1, math.ceil(1 / beta))
    y = repeated(lambda y: _newton_step(matrix, root, beta, lengths, y), steps, y) * present
    return y if beta <= 1 else xp.where(shortest_combination(cosine, present)[1], y, 0)


def _of_two(cos: Array, root: Array, beta: float) -> Array:
    """The positive y with ``y_1 + cos y_2 = (y_1 / r_1)**-beta`` and likewise for y_2: (), (2,) -> (2,).

    Dividing one equation by the other leaves one for ``x = log(y_2/y_1)``, which is increasing:
    ``beta x + h(x) = beta log(r_2/r_1)``, ``h(x) = log((cos + e^x) / (1 + cos e^x))``. For cos < 0, where h is infinite
    at both ends, take ``q = h(x)`` for the unknown: the inverse of h is h with -cos, and the equation is of the same
    form with 1/beta. So the sine of the angle is all that is left of its sign, h is odd, concave for x > 0, below
    ``min(x, -log cos)``, and Newton's method climbs to the root from the largest root with that bound in the place of
    h. It is closed if cos is 0 or beta is 1; for beta = 2 and 1/2 (alpha = 1/2, 2) there are formulas of third degree,
    whose differences of cube roots lose the digits that Newton's method keeps.
    """
    xp = array_namespace(root)
    obtuse = cos < 0
    size = xp.abs(cos)
    power = xp.where(obtuse, 1 / beta, beta + 0 * cos)
    ratio = beta * (xp.log(root[1]) - xp.log(root[0]))
    goal = xp.abs(ratio) * xp.where(obtuse, 1 / beta, 1 + 0 * cos)
    saturation = xp.log(xp.where(size > 0, size, 1))
    x = xp.maximum(goal / (1 + power), xp.where(size > 0, goal + saturation, 0) / power)
    for _ in range(_STEPS_OF_TWO):
        shrunk = xp.exp(-x)
        numerator, denominator = 1 + size * shrunk, size + shrunk
        # log(numerator / denominator), whose arguments are nearly equal for nearly parallel gradients
        h = xp.log1p((1 - size) * -xp.expm1(-x) / denominator)
        slope = (1 - size) * (1 + size) * shrunk / (numerator * denominator)
        x = x + (goal - power * x - h) / (power + slope)
    # e^x and e^-x, by which each gradient exceeds the other
    sign = xp.where(ratio < 0, -1 + 0 * x, 1 + 0 * x)
    grown = size * xp.exp(xp.stack([sign * x, -sign * x]))
    width = (1 - size) * (1 + size)
    left = xp.where(obtuse, (1 + grown) / xp.where(width > 0, width, 1), 1 / (1 + grown))
    return xp.where(obtuse & (width <= 0), 0, root ** (beta / (1 + beta)) * left ** (1 / (1 + beta)))


@compiled_once
def _newton_step(matrix: Array, root: Array, beta: float, lengths: Array, y: Array) -> Array:
    xp = array_namespace(matrix)
    eps = xp.finfo(matrix.dtype).eps

    def value(y: Array) -> Array:
        phi = -root * xp.log(y) if beta == 1 else y * (y / root) ** -beta / (beta - 1)
        return xp.sum(y * matvec(matrix, y) / 2 + phi, axis=-1)

    force = (y / root) ** -beta
    pull = matvec(matrix, y)
    # the floor changes nothing that rounding of C does not, and keeps the matrix regular where there is no solution
    curvature = at_least(beta * force / y, 64 * eps)
    # scaled to a diagonal of 1, because y may differ by many orders of magnitude
    scale = 1 / xp.sqrt(1 + curvature)
    hessian = (matrix + identity(matrix) * curvature[:, None]) * scale[:, None] * scale
    change = scale * solve(hessian, (scale * (force - pull))[None, :])[0, :]
    to_the_boundary = 0.95 * xp.min(xp.where(change < 0, -y / xp.where(change < 0, change, -1), xp.inf))
    length = xp.minimum(lengths, to_the_boundary)
    tried = y + length * change
    best = least(xp.where(xp.min(tried, axis=-1) > 0, value(tried), xp.inf)[:, None])
    # nearer than this, differences of the function are rounding errors, and the full step is right
    near = xp.sum((force - pull) * change) < 1e-5 * xp.sum(y * force)
    full = y + at_most(to_the_boundary, 1) * change
    # 1 / eps: so far out only where there is no solution, and further out lies overflow
    return at_most(xp.where(near, full, xp.sum(best * tried, axis=0)), 1 / eps)
