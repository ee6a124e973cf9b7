"""The projection that keeps weights weights: on the simplex."""

from __future__ import annotations

from ..rule import Array, array_namespace


def simplex_projection(values: Array, active: Array) -> Array:
    """The nearest point with ``w >= 0, sum w = 1`` and w zero where not active: (m,), (m,) of truth values -> (m,).

    ``w_i = max(values_i - theta, 0)``, theta the largest of ``(sum of the k largest - 1)/k`` over all k. Zeros if
    nothing is active.
    """
    xp = array_namespace(values)
    # only differences matter, and those to the largest keep their digits where values are huge
    largest = xp.max(xp.where(active, values, -xp.inf))
    shifted = xp.where(active, values - xp.where(xp.any(active), largest, 0), -xp.inf)
    at_least = (shifted[None, :] >= shifted[:, None]) & active[None, :]
    total = xp.sum(xp.where(at_least, xp.where(active, shifted, 0)[None, :], 0), axis=-1)
    count = xp.sum(xp.astype(at_least, values.dtype), axis=-1)
    theta = xp.max(xp.where(active, (total - 1) / xp.clip(count, 1, None), -xp.inf))
    return xp.where(active, xp.clip(shifted - xp.where(xp.any(active), theta, 0), 0, None), 0)
