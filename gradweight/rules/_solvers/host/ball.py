"""The dual of CAGrad's problem on the host: Newton's method for the multiplier, a quadratic program for each."""

from __future__ import annotations

import numpy as np

from ....rule import Array
from ..cone import unless_flat
from .quadratic import nonnegative_minimiser

_MOST_STEPS = 50


def best_near(cosine: Array, mean: Array, n: Array, radius: Array) -> tuple[Array, Array] | None:
    """The y at least 0 for which ``d = g_0 + V y``, ``|V y| = radius``, has the largest least gain ``<d, u_i> / n_i``.

    (m, m), 2 (m,), () -> (m,). For a multiplier mu, y is the minimiser of ``y' C y / 2 + (a - mu n)' y`` over
    ``y >= 0``. Its length ``|V y|`` is convex in mu and grows with it, so Newton's method comes down to the radius from
    one side; on the face that does not change any more it is the root of a quadratic equation.

    The second result is whether a direction is left. None for two losses, and where the radius is 0.
    """
    if len(n) == 2 or not radius > 0:
        return None
    active = np.flatnonzero(n)
    c = cosine[np.ix_(active, active)].astype(np.float64)
    full = n
    g, n, radius = mean[active].astype(np.float64), n[active].astype(np.float64), float(radius)
    a = c @ g
    # any convex combination of the gradients then stands out of rounding errors, as `resolved` sees it
    tolerance = (2 + len(c) / 2) * float(np.finfo(cosine.dtype).eps) ** 0.5
    mu = ((a + radius) / n).min()
    for _ in range(_MOST_STEPS):
        y = nonnegative_minimiser(c, (a - mu * n)[None, :])[0, :]
        along, length = y @ n, max(y @ (c @ y), 0) ** 0.5
        if not (along > 0 and length > 0):
            return None
        on_face, root = _on_face(c, a, n, radius, np.flatnonzero(y))
        if on_face is not None and _is_optimal(on_face, a + c @ on_face - root * n):
            result = np.zeros_like(mean)
            result[active] = on_face
            gains = c @ (g + on_face)
            if gains.min() > tolerance * max((g + on_face) @ gains, 0) ** 0.5:
                return result, np.asarray(True)
            return unless_flat(result, cosine, mean, full, radius)
        mu -= (length - radius) * length / along
    return None


def _is_optimal(y: Array, slack: Array) -> bool:
    return bool(y.min() >= 0 and slack.min() >= -1e-14 * len(y) * (1 + y.sum()))


def _on_face(c: Array, a: Array, n: Array, radius: float, free: Array) -> tuple[Array | None, float]:
    """y of length radius on the face, and its multiplier."""
    along = np.linalg.solve(c[np.ix_(free, free)], np.stack([n[free], a[free]], axis=1))
    p, q, r = along[:, 0] @ n[free], along[:, 0] @ a[free], along[:, 1] @ a[free]
    discriminant = q * q - p * (r - radius * radius)
    if discriminant < 0 or p <= 0:
        return None, 0.0
    mu = (q + discriminant**0.5) / p
    y = np.zeros(len(n))
    y[free] = mu * along[:, 0] - along[:, 1]
    return y, mu
