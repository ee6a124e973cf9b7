"""The steps of an active-set method: which variables enter the free set, and how far a change keeps y at least 0."""

from __future__ import annotations

from ...rule import Array, array_namespace
from .arrays import at_least, at_most


def entering(slack: Array, free: Array, whole: Array, rounding: Array, several: bool) -> Array:
    """``free`` and the variables whose slack is below rounding errors: 2 (r, n), 2 (r, 1) -> (r, n).

    Only the one whose slack is lowest unless ``several``, and none before the minimum on the present face has been
    reached, which is what ``whole`` tells.
    """
    xp = array_namespace(slack)
    outside = xp.where(free > 0, xp.inf, slack)
    enters = whole & (outside < -rounding)
    if not several:
        enters = enters & (outside == xp.min(outside, axis=-1)[..., None])
    return xp.where(enters, 1, free)


def up_to_the_boundary(y: Array, change: Array, free: Array) -> tuple[Array, Array, Array]:
    """``y + change``, or as much of the change as keeps y >= 0: 3 (..., n) -> (..., n), (..., n), (..., 1).

    The new y, the free variables without those that the way ended at, and whether it was the whole way.
    """
    xp = array_namespace(y)
    falls = change < 0
    ends = xp.where(falls, y / xp.where(falls, -change, 1), xp.inf)
    length = at_most(xp.min(ends, axis=-1)[..., None], 1)
    leaves = ends <= length
    y = xp.where(leaves, 0, at_least(y + length * change, 0))
    return y, xp.where(leaves, 0, free), length == 1
