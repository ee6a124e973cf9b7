"""EPO: to the point of the Pareto front where the losses have chosen proportions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import by_name, check_nonnegative, check_range
from ._shares import has_gradient
from ._solvers.arrays import at_least, matvec, total
from ._solvers.cone import freed_of_conflicts
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.quadratic import nonnegative_minimiser
from ._solvers.rounding import stands_out


@dataclass(frozen=True)
class EPO:
    """Exact Pareto optimality for a preference: make all ``r_i L_i`` equal, then lower all losses together.

    How unequal they are is ``mu = sum_i l_i log(n l_i)``, ``l_i = r_i L_i / sum_j r_j L_j``, 0 where they are equal. To
    first order a step along ``b = sum_i a_i g_i``, ``a_i = r_i (log(n l_i) - mu)``, lowers mu fastest. While mu is
    above ``tolerance`` the direction is b's projection on the directions ``sum_i w_i g_i`` with ``w >= 0``, a divided
    by ``sum_i |a_i|``: it lowers mu, and no loss less than b does; (m, m) -> (m,). Then, and where it would be zero or
    raise the worst of the r_i L_i, it is the nearest to ``sum_i l_i g_i`` that raises no loss, as in `DualProj`.

    A loss whose gradient is exactly zero is left out. With a negative one all weights are NaN, as for a loss that is
    NaN itself.

    Args:
        preference: name -> r_i >= 0; None: 1 each, all losses equal.
        tolerance: mu up to which the losses count as balanced, > 0.

    Signals:
        losses: supplied automatically; at least 0.

    Raises:
        ValueError: an argument out of its range; a loss without a preference.

    Example:
        >>> import numpy as np
        >>> rule, gram = EPO({"a": 1.0, "b": 1.0}), np.eye(2)
        >>> rule(gram, names=("a", "b"), losses=np.array([3.0, 1.0]))                   # only the larger one falls
        array([0.25, 0.  ])
        >>> rule(gram, names=("a", "b"), losses=np.array([1.0, 1.0]))
        array([0.5, 0.5])

    Reference:
        Mahapatra, Rajan. Multi-Task Learning with User Preferences: Gradient Descent with Controlled Ascent in Pareto
        Optimization. ICML 2020, Algorithm 1; longer in: Exact Pareto Optimal Search for Multi-Task Learning and
        Multi-Criteria Decision-Making. arXiv:2108.00597.

    Deviations:
        The paper's weights are those on the simplex that solve a linear program: the largest decrease of mu while some
        losses fall at least as b lowers them. They are one corner of it or another; the projection has the largest
        decrease for its length instead, holds all of those bounds, and changes continuously with the gradients. Its
        descent is the linear program of the largest sum of decreases, ours that of `DualProj`.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    preference: Mapping[str, float] | None = field(default=None, hash=False)
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_nonnegative("EPO", "preferences", self.preference)
        check_range("EPO", "tolerance", self.tolerance, 0, open_low=True)

    def __call__(self, gram: Array, /, *, losses: Array, names: tuple[str, ...] | None = None) -> Array:
        xp = array_namespace(gram)
        eps = xp.finfo(gram.dtype).eps
        present = has_gradient(gram)
        r = present * by_name("EPO", "preference", self.preference, names, present, 1.0)
        weighted = r * xp.where(present > 0, losses, 0)
        share = weighted / xp.where(total(weighted) == 0, 1, total(weighted))
        relative = xp.log(at_least(share * at_least(total(xp.where(r > 0, present, 0)), 1), eps))
        mu = total(share * relative)
        a = r * (relative - mu)
        a = a / xp.where(total(xp.abs(a)) == 0, 1, total(xp.abs(a)))

        inverse_norm = inverse_norms(gram)
        cosine = correlations(gram, inverse_norm)
        # b in coordinates along unit gradients, the largest of them 1
        length = a / xp.where(present > 0, inverse_norm, 1)
        size = xp.max(xp.abs(length))
        target = length / xp.where(size > 0, size, 1)
        y = nonnegative_minimiser(cosine, -matvec(cosine, target)[None, :])[0, :]
        gains = matvec(cosine, y)
        lowest = 8 * eps**0.5 * xp.sqrt(at_least(total(y * gains), 0))
        worst = xp.where((share >= xp.max(share)) & (r > 0), gains, xp.inf)
        balancing = (mu > self.tolerance) & stands_out(cosine, y[None, :], target[None, :])[0]
        balancing = balancing & (xp.min(worst) >= -lowest)
        weights = xp.where(balancing, y * inverse_norm * size, _descent(cosine, share, inverse_norm))
        broken = xp.any(present * losses < 0) | xp.logical_not(xp.isfinite(mu))
        return xp.where(broken, xp.nan, weights)


def _descent(cosine: Array, share: Array, inverse_norm: Array) -> Array:
    """The weights of what is nearest to ``sum_i share_i g_i`` and conflicts with nothing: (m, m), 2 (m,) -> (m,)."""
    xp = array_namespace(cosine)
    # in coordinates along unit gradients, the largest of them 1
    length = xp.where(inverse_norm > 0, share / xp.where(inverse_norm > 0, inverse_norm, 1), 0)
    size = xp.where(xp.max(length) > 0, xp.max(length), 1)
    y, some = freed_of_conflicts(cosine, (length / size)[None, :])
    return xp.where(some[0], y[0, :], 0) * (inverse_norm * size)
