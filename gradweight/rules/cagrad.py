"""CAGrad: near the mean gradient, the direction that is best for the loss it is worst for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..rule import Array, array_namespace
from ._cone import freed_of_conflicts, shortest_combination
from ._linalg import _matvec, correlations, inverse_norms
from ._loops import compiled_once, repeated
from ._quadratic import (
    MOST_FACES_OF,
    all_faces,
    change_on_face,
    entering,
    least,
    optimality_residual,
    regularised,
    up_to_the_boundary,
)


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
        arXiv:2110.14048, Algorithm 1.

    Deviations:
        The dual is solved exactly: in closed form for two losses; for up to 8 its optimum on each face of the simplex
        is a root of a quadratic equation, all faces are tried as one batch, and the one with the least optimality
        residual is taken; beyond, 2 m steps of an active-set method lead from face to face. The authors use SLSQP
        on the host with 1e-8 under each root; their code also divides d by 1 + c^2, which a learning rate does too.
    """

    c: float = 0.5

    faster_on_numpy_from = 3

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
        if m == 2:
            y = _of_two(cosine, a, n, radius)
        else:
            y = (_by_faces if m <= MOST_FACES_OF else _by_active_sets)(cosine, a, n, radius)
        # the root is right to sqrt(eps) where the discriminant cancels, which a small radius must not show
        y = y * radius * _inverse_root(xp.sum(y * _matvec(cosine, y)))

        nearest, stands_out = freed_of_conflicts(cosine, mean[None, :])
        added = nearest[0, :] - mean
        _, some_direction = shortest_combination(cosine, n)
        flat = ~some_direction & (xp.sum(added * _matvec(cosine, added)) <= radius**2)
        y = mean + xp.where(flat, added, y)
        # where all has cancelled, what is left is rounding error and no direction
        rounding = 4 * m * xp.finfo(gram.dtype).eps * xp.sum(mean) ** 2
        nothing = (squared <= rounding) | (flat & ~stands_out[0])
        return xp.where(nothing, 0, y) * (inverse_norm * largest)


def _inverse_root(squared: Array) -> Array:
    """1 / sqrt, and 0 at 0 with a derivative of 0."""
    xp = array_namespace(squared)
    return xp.where(squared > 0, 1 / xp.sqrt(xp.where(squared > 0, squared, 1)), 0)


def _of_two(cosine: Array, a: Array, n: Array, radius: Array) -> Array:
    """The optimal y up to a factor: V y is equally far along both gradients, or along one of them.

    With e the unit vector along ``g_1 - g_2`` and p that along the shortest affine combination, at right angles to it,
    equal gains mean ``<e, g_0 + V y> = 0``, so ``V y = radius (sqrt(1 - k^2) p - k e)``, ``k = <e, g_0>/radius``.
    """
    xp = array_namespace(cosine)
    cos = cosine[0, 1]
    other = xp.flip(n)
    difference = xp.stack([n[1], -n[0]])
    inverse_length = _inverse_root(xp.sum(n * (n - cos * other)))
    k = xp.sum(difference * a) * inverse_length / xp.where(radius > 0, radius, 1)
    k = xp.clip(k, -1, 1)
    rest = 1 - k**2
    rest = xp.where(rest > 0, xp.sqrt(xp.where(rest > 0, rest, 1)), 0)
    y = rest * _inverse_root(1 - cos**2) * (n - cos * other) - k * difference
    y = xp.clip(y, 0, None)
    # parallel gradients of one length: any y will do
    return xp.where(xp.any(y > 0), y, n)


def _on_face(cosine: Array, a: Array, n: Array, radius: Array, free: Array) -> tuple[Array, Array, Array, Array]:
    """On each face: y with equal gains mu, mu itself, whether it exists, and a direction of descent where it does not.

    mu is the larger root of a quadratic equation, ``|V y| = radius``. Without a root the dual falls for ever along the
    face.
    """
    xp = array_namespace(cosine)
    inner, rhs = regularised(cosine), xp.stack([n, a])
    # minus, because the change is that to a minimiser; the second step takes the regularisation back out
    along = -change_on_face(inner, free, rhs)
    along = along - change_on_face(inner, free, rhs - _matvec(cosine, along))
    along_n, along_a = along[..., 0, :], along[..., 1, :]
    p, q, r = xp.sum(along_n * n, axis=-1), xp.sum(along_n * a, axis=-1), xp.sum(along_a * a, axis=-1)
    discriminant = q**2 - p * (r - radius**2)
    solvable = (discriminant >= 0) & (p > 0)
    # 1 where it is not looked at: the square root has no derivative at 0, and forward-mode differentiation takes it
    mu = (q + xp.sqrt(xp.where(solvable, discriminant, 1))) / xp.where(solvable, p, 1)
    y = mu[..., None] * along_n - along_a
    descent = (q / xp.where(p > 0, p, 1))[..., None] * along_n - along_a
    return y, mu, solvable, descent


def _by_faces(cosine: Array, a: Array, n: Array, radius: Array) -> Array:
    """The optimal y: that of the face with the least optimality residual."""
    xp = array_namespace(cosine)
    y, mu, solvable, _ = _on_face(cosine, a, n, radius, all_faces(cosine))
    residual = optimality_residual(cosine, a - mu[:, None] * n, y)
    best = least(xp.where(solvable, residual, xp.inf)[:, None])
    return xp.clip(xp.sum(best * y, axis=0), 0, None)


def _by_active_sets(cosine: Array, a: Array, n: Array, radius: Array) -> Array:
    """The optimal y by Lawson and Hanson's steps from face to face, each of which lowers the dual."""
    xp = array_namespace(cosine)
    # from the gradient that is best on its own
    value = xp.where(n > 0, (a + radius) / xp.where(n > 0, n, 1), xp.inf)
    free = least(value[:, None])[:, 0]
    state = (radius * free, free, free[:1] >= 0)
    return repeated(lambda state: _active_set_step(cosine, a, n, radius, *state), 2 * n.shape[0], state)[0]


@compiled_once
def _active_set_step(
    cosine: Array, a: Array, n: Array, radius: Array, y: Array, free: Array, whole: Array
) -> tuple[Array, Array, Array]:
    xp = array_namespace(cosine)
    eps = xp.finfo(n.dtype).eps
    # the dual's derivative at y, |V y| = radius, less its mean over y
    gain = a + _matvec(cosine, y)
    along = xp.sum(y * n)
    slack = gain - n * xp.sum(y * gain) / xp.where(along > 0, along, 1)
    free = entering(slack, free, whole, 4 * n.shape[0] * eps * (1 + xp.sum(y)), several=False)
    y_face, _, solvable, descent = _on_face(cosine, a, n, radius, free)
    # without a minimum on the face it is down to its boundary, however far
    y, free, whole = up_to_the_boundary(y, xp.where(solvable, y_face - y, descent / eps), free)
    return y * radius * _inverse_root(xp.sum(y * _matvec(cosine, y))), free, whole
