"""CAGrad: near the mean gradient, the direction that is best for the loss it is worst for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..rule import Array, array_namespace
from ._linalg import _like, _matvec, correlations, inverse_norms, psd_inverse
from ._quadratic import MOST_FACES_OF, all_faces, least, nonnegative_minimiser, optimality_residual, resolved


@dataclass(frozen=True)
class CAGrad:
    """The direction within ``c |g_0|`` of the mean gradient g_0 whose least inner product with a gradient is largest.

    ``d = argmax min_i <d, g_i>`` over ``|d - g_0| <= c |g_0|``; (m, m) -> (m,). With g_v = sum_i v_i g_i and v the
    minimiser of the dual, ``<g_v, g_0> + c |g_0| |g_v|`` over ``v >= 0, sum v = 1``,
    ``d = g_0 + c |g_0| g_v / |g_v|``. c = 0 is the mean; for c < 1 the mean loss falls; the larger c, the nearer to
    `MGDA`. Single losses can still rise when c is small.

    Where 0 is a convex combination of the gradients (opposed ones, for example) no direction lowers all losses, and
    many may share the best minimum of 0. The one nearest to g_0 is taken, which is `DualProj`'s, if it is within
    c |g_0|; otherwise the minimum is below 0 and the formula holds. Where g_0, or that direction, is 0 within rounding
    errors all weights are 0. A loss whose gradient is exactly zero is left out, also of the mean.

    Args:
        c: radius of the ball relative to |g_0|, at least 0; the paper has [0, 1), and 0.5 is its usual choice.

    Raises:
        ValueError: c is negative or not finite.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
        >>> (CAGrad(c=0.5)(rows @ rows.T) @ rows).round(4)
        array([0.1835, 1.2041, 1.2041])

    Reference:
        Liu, Liu, Jin, Stone, Liu. Conflict-Averse Gradient Descent for Multi-task Learning. NeurIPS 2021,
        arXiv:2110.14048, equation 3 and Algorithm 1.

    Deviations:
        The dual is solved exactly: on each face of the simplex its optimum is a root of a quadratic equation, all
        faces are tried as one batch, and the one with the least optimality residual is taken. Beyond 8 losses the
        multiplier of its constraint is searched for, to 2**-48 of its range, with a program solved for each of 17
        values twelve times over: tenths of a second at 16 losses, so see ``refresh_every``. The authors use SLSQP
        on the host with 1e-8 under each root; their code also divides d by 1 + c^2, which a learning rate does too.
    """

    c: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.c) and self.c >= 0):
            raise ValueError(f"CAGrad needs a finite c of at least 0; got {self.c}")

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        m = gram.shape[-1]
        inverse_norm = inverse_norms(gram)
        active = inverse_norm > 0
        cosine = correlations(gram, inverse_norm)
        # g_0 in coordinates along the unit gradients, in units of the largest norm; and n_i = 1/|g_i| in units of the
        # smallest: sum v = 1 reads n . z = 1
        norm = xp.where(active, 1 / xp.where(active, inverse_norm, 1), 0)
        largest = xp.max(norm)
        largest = xp.where(largest > 0, largest, 1)
        mean = norm / largest / xp.clip(xp.sum(xp.astype(active, gram.dtype)), 1, None)
        n = inverse_norm / xp.where(xp.any(active), xp.max(inverse_norm), 1)
        a = _matvec(cosine, mean)
        squared = xp.clip(xp.sum(mean * a), 0, None)
        radius = self.c * squared * _inverse_root(squared)

        # d = g_0 + V y is optimal if s = C y + a - mu n >= 0 and y s = 0, and |V y| is the radius or mu is 0
        solve = _by_faces if m <= MOST_FACES_OF else _by_search
        y = solve(cosine, a, n, squared, radius)
        # the root is right to sqrt(eps) where the discriminant cancels, which a small radius must not show
        y = y * radius * _inverse_root(xp.sum(y * _matvec(cosine, y)))

        nearest = nonnegative_minimiser(cosine, a[None, :])[0, :]
        within = xp.sum(nearest * _matvec(cosine, nearest)) <= radius**2
        shortest = nonnegative_minimiser(cosine + n[:, None] * n[None, :], -n[None, :])
        stationary = ~resolved(cosine, shortest, shortest)[0]
        flat = stationary & within
        y = mean + xp.where(flat, nearest, y)
        # where all has cancelled, what is left is rounding error and no direction
        rounding = 4 * m * xp.finfo(gram.dtype).eps * xp.sum(mean) ** 2
        nothing = (squared <= rounding) | (flat & ~resolved(cosine, y[None, :], mean[None, :])[0])
        return xp.where(nothing, 0, y) * (inverse_norm * largest)


def _inverse_root(squared: Array) -> Array:
    """1 / sqrt, and 0 at 0 with a derivative of 0."""
    xp = array_namespace(squared)
    return xp.where(squared > 0, 1 / xp.sqrt(xp.where(squared > 0, squared, 1)), 0)


def _by_faces(cosine: Array, a: Array, n: Array, squared: Array, radius: Array) -> Array:
    """The optimal y: on each face mu is a root of a quadratic equation, and the least residual tells the face."""
    xp = array_namespace(cosine)
    free = all_faces(cosine)
    inverse = psd_inverse(cosine * free[:, :, None] * free[:, None, :])
    along_n, along_a = _matvec(inverse, n * free), _matvec(inverse, a * free)
    p, q, r = xp.sum(along_n * n, axis=-1), xp.sum(along_n * a, axis=-1), xp.sum(along_a * a, axis=-1)
    discriminant = q**2 - p * (r - radius**2)
    solvable = (discriminant >= 0) & (p > 0)
    mu = (q + xp.sqrt(xp.where(solvable, discriminant, 0))) / xp.where(solvable, p, 1)
    y = mu[:, None] * along_n - along_a
    y = y - _matvec(inverse, (_matvec(cosine, y) + a - mu[:, None] * n) * free)
    residual = optimality_residual(cosine, a - mu[:, None] * n, y)
    best = least(xp.where(solvable, residual, xp.inf)[:, None])
    return xp.clip(xp.sum(best * y, axis=0), 0, None)


def _by_search(cosine: Array, a: Array, n: Array, squared: Array, radius: Array) -> Array:
    """The optimal y by a search for mu: |V y| grows with it, from 0 where no gradient has less, d being g_0.

    mu is the least inner product that is reached, in units of the largest norm, and found to 2**-48 of its range.
    """
    xp = array_namespace(cosine)
    parts = xp.arange(17, **_like(cosine)) / 16
    least_of_mean = xp.min(xp.where(n > 0, a / xp.where(n > 0, n, 1), xp.inf))
    low = xp.where(least_of_mean < 0, least_of_mean, 0 * radius)
    high = xp.sqrt(squared) + radius
    for _ in range(12):
        mu = low + (high - low) * parts
        y = nonnegative_minimiser(cosine, a[None, :] - mu[:, None] * n[None, :])
        inside = xp.sum(y * _matvec(cosine, y), axis=-1) <= radius**2
        low = xp.max(xp.where(inside, mu, low))
        high = xp.min(xp.where(inside, high, mu))
    return nonnegative_minimiser(cosine, (a - high * n)[None, :])[0, :]
