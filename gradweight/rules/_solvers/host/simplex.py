"""The simplex on the host: the projection, and many steps of projected descent."""

from __future__ import annotations

import numpy as np

from ....rule import Array


def simplex_projection(values: Array, active: Array) -> Array:
    """The nearest point with ``w >= 0, sum w = 1`` and w zero where not active: (m,), (m,) of truth values -> (m,)."""
    w = np.zeros_like(values)
    if active.any():
        w[active] = _projected(values[active].astype(np.float64), np.arange(1.0, 1 + np.count_nonzero(active)))
    return w


def projected_descent(
    a: Array, w: Array, pull: Array, lr: float, momentum: float, iterations: int, active: Array
) -> Array:
    """``v = momentum v + A (w + pull)``, ``w = simplex(w - lr v)``, so many times: (m, m), 2 (m,) -> (m,)."""
    result = np.zeros_like(w)
    if active.any():
        indices = np.flatnonzero(active)
        steps = lr * a[np.ix_(indices, indices)].astype(np.float64)
        w, pull = w[indices].astype(np.float64), pull[indices]
        velocity, counting = np.zeros_like(w), np.arange(1.0, 1 + len(w))
        for _ in range(iterations):
            velocity = momentum * velocity + steps @ (w + pull)
            w = _projected(w - velocity, counting)
        result[indices] = w
    return result


def _projected(values: Array, counting: Array) -> Array:
    # only differences matter, and those to the largest keep their digits where values are huge
    values = values - values.max()
    ordered = values.copy()
    ordered.sort()
    theta = ((ordered[::-1].cumsum() - 1) / counting).max()
    return np.maximum(values - theta, 0)
