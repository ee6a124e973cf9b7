"""CAGrad: near the mean gradient, the direction that is best for the loss it is worst for."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import check_range
from ._solvers.arrays import at_least, matvec
from ._solvers.ball import best_near, inverse_root
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.rounding import what_stands_out


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

    faster_on_numpy_from: ClassVar[int] = 1

    c: float = 0.5

    def __post_init__(self) -> None:
        check_range("CAGrad", "c", self.c, 0)

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
        mean = norm / largest / at_least(xp.sum(xp.astype(active, gram.dtype)), 1)
        n = inverse_norm / xp.where(xp.any(active), xp.max(inverse_norm), 1)
        squared = at_least(xp.sum(mean * matvec(cosine, mean)), 0)
        radius = self.c * squared * inverse_root(squared)

        added, some_direction = best_near(cosine, mean, n, radius)
        # where all has cancelled, what is left is rounding error and no direction
        rounding = 4 * m * xp.finfo(gram.dtype).eps * xp.sum(mean) ** 2
        nothing = (squared <= rounding) | ~some_direction
        return xp.where(nothing, 0, what_stands_out(cosine, mean + added)) * (inverse_norm * largest)
