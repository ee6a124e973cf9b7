"""What stands out of rounding errors: a direction that is nothing but those must be 0.

An optimizer such as Adam makes a full step of the tiniest.
"""

from __future__ import annotations

from ...rule import Array, array_namespace
from .arrays import at_least, matvec, total


def opposed(cosine: Array) -> Array:
    """Whether gradients of this cosine are opposed as far as floating point can tell: their unit vectors cancel.

    What is left of them is a rounding error of some direction, and an optimizer such as Adam makes a full step of the
    tiniest. Gradients of a single number, the last bias of a network say, are opposed whenever they conflict.
    """
    return cosine <= 16 * array_namespace(cosine).finfo(cosine.dtype).eps - 1


def stands_out(cosine: Array, y: Array, target: Array) -> Array:
    """Whether ``p = sum_i y_i u_i``, a projection of ``sum_i target_i u_i``, is more than what rounding leaves of it.

    (m, m), (r, m), (r, m) -> (r,). The cosines are right to eps, so that ``|p|^2 = p . target`` is known to a few
    ``eps |y|^2``, the norm being a sum: shorter than that p is an error of some direction. This is the criterion of all
    rules that subtract gradients from each other or solve for their weights.
    """
    xp = array_namespace(cosine)
    squared = total(target * matvec(cosine, y))
    return squared > rounding_of(cosine, y) * total(xp.abs(y))


def what_stands_out(cosine: Array, y: Array) -> Array:
    """``y``, or 0 where ``sum_i y_i u_i`` is nothing but what rounding leaves of it: (m, m), (m,) -> (m,)."""
    xp = array_namespace(cosine)
    largest = xp.max(xp.abs(y))
    unit = (y / xp.where(largest > 0, largest, 1))[None, :]  # whose square cannot overflow
    return xp.where(stands_out(cosine, unit, unit)[0], y, 0)


def rounding_of(cosine: Array, y: Array) -> Array:
    """How far rounding may have moved the inner products of ``sum_i y_i u_i`` with unit vectors, (r, m) -> (r,)."""
    xp = array_namespace(cosine)
    return 4 * cosine.shape[-1] * xp.finfo(cosine.dtype).eps * total(xp.abs(y))


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
    slack = matvec(cosine, y)
    squared = total(target * slack)
    length = xp.sqrt(at_least(squared, 0))
    rounding = rounding_of(cosine, y)
    return (
        stands_out(cosine, y, target)
        & (rounding <= tolerance * length)
        & (xp.min(slack, axis=-1) >= -tolerance * length)
    )


def resolved_eigenvalues(eigenvalues: Array, vectors: Array, norms: Array) -> Array:
    """Which eigenvalues of a Gram matrix stand out of its rounding errors: (m,), (m, m), (m,) -> (m,) of truth values.

    Entry i, j of a Gram matrix is right to a few ``eps |g_i| |g_j|``, so the eigenvalue of v is right to that times
    ``(sum_i |v_i| |g_i|)**2``, however small it is beside the others.
    """
    xp = array_namespace(eigenvalues)
    reach = xp.sum(xp.abs(vectors) * norms[:, None], axis=0)
    return eigenvalues > 4 * norms.shape[-1] * xp.finfo(norms.dtype).eps * reach**2
