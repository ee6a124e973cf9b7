"""The two programs of the rules that never conflict: nearest direction without a conflict, shortest combination."""

from __future__ import annotations

from ...rule import Array, array_namespace
from .arrays import at_least, matvec
from .quadratic import nonnegative_minimiser
from .rounding import resolved


def freed_of_conflicts(cosine: Array, target: Array) -> tuple[Array, Array]:
    """For each row, the vector nearest to ``t = sum_i target_i u_i`` that conflicts with no u_i, and if it stands out.

    (m, m), (r, m) -> (r, m), (r,). In coordinates along the unit gradients it is ``target + v``, v the minimiser of
    ``|t + sum_i v_i u_i|^2`` over ``v >= 0``. For two gradients t conflicts with one of them at most, and
    ``v_i = max(0, -<t, u_i>)`` takes away its projection on that one. It stands out if it is no rounding error
    (`resolved`).

    Args:
        cosine: correlations; the rows of zero gradients are empty.
        target: at least 0, the largest of the size of 1, 0 for zero gradients.
    """
    xp = array_namespace(cosine)
    overlap = xp.sum(target[:, :, None] * cosine, axis=1)
    added = at_least(-overlap, 0) if cosine.shape[-1] == 2 else nonnegative_minimiser(cosine, overlap)
    y = target + added
    return y, resolved(cosine, y, target)


def shortest_combination(cosine: Array, n: Array) -> tuple[Array, Array]:
    """The shortest ``sum_i z_i u_i`` with ``z >= 0, n . z = 1`` up to a factor, and whether it stands out of rounding.

    (m, m), (m,) -> (m,), (). For two gradients ``z_i = max(0, n_i - n_j cos)``.

    Args:
        cosine: correlations; the rows of zero gradients are empty.
        n: 1/|g_i| in units of the largest of them, 0 for zero gradients.
    """
    xp = array_namespace(cosine)
    if cosine.shape[-1] == 2:
        z = at_least(n - cosine[0, 1] * xp.flip(n), 0)
        # equal gradients: any combination is the shortest
        z = xp.where(xp.sum(z) > 0, z, n)
    else:
        # min |sum z_i u_i|^2 over n . z = 1 has the same solution as min |sum z_i u_i|^2 + (n . z - 1)^2, up to length
        z = nonnegative_minimiser(cosine + n[:, None] * n[None, :], -n[None, :])[0, :]
    return z, resolved(cosine, z[None, :], z[None, :])[0]


def unless_flat(y: Array, cosine: Array, mean: Array, n: Array, radius: Array) -> tuple[Array, Array]:
    """y, or where no direction raises all gains the one nearest to g_0 that lowers none, if it is within the radius."""
    xp = array_namespace(cosine)
    nearest, stands_out = freed_of_conflicts(cosine, mean[None, :])
    added = nearest[0, :] - mean
    _, some_direction = shortest_combination(cosine, n)
    flat = ~some_direction & (xp.sum(added * matvec(cosine, added)) <= radius**2)
    return xp.where(flat, added, y), ~flat | stands_out[0]
