"""GradNorm's targets: losses that train too slowly get longer gradients."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import check_range
from ._shares import has_gradient, mean
from ._solvers.arrays import at_least
from ._solvers.correlations import inverse_norms


@dataclass(frozen=True)
class GradNorm:
    """Weights that give every gradient the norm which its loss's progress calls for.

    With ``L~_i = L_i / L_i(0)`` what is left of a loss and ``r_i = L~_i / mean_j L~_j`` its inverse training rate,
    the weighted norms are proportional to ``r_i^alpha`` and the weights add up to the number n of losses:
    ``w_i = n a_i / sum_j a_j`` with ``a_i = r_i^alpha / |g_i|``; (m, m) -> (m,).

    A loss whose gradient is exactly zero is left out of all means, whatever its value. A loss at or below zero counts
    as fully trained, and L_i(0) is the first value above zero.
    For smoother weights wrap it: ``CRMOGM(GradNorm())``.

    Args:
        alpha: how strongly to hold back losses that train fast, >= 0; 0 makes all norms equal.

    Signals:
        losses: supplied automatically; positive.

    Raises:
        ValueError: alpha out of its range.

    Example:
        >>> import numpy as np
        >>> rule, gram = GradNorm(alpha=1.0), np.eye(2)
        >>> _, state = rule.update(gram, rule.init(gram), losses=np.array([2.0, 8.0]))
        >>> rule.update(gram, state, losses=np.array([1.5, 2.0]))[0]               # 3/4 and 1/4 of the loss is left
        array([1.5, 0.5])

    Reference:
        Chen, Badrinarayanan, Lee, Rabinovich. GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
        Multitask Networks. ICML 2018, arXiv:1711.02257.

    Deviations:
        The paper moves the weights towards these targets by gradient descent on the differences; we set them there,
        which leaves no learning rate to tune. It takes norms at the last shared layer; here they are those at all the
        parameters of the optimizer.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    alpha: float = 1.5

    def __post_init__(self) -> None:
        check_range("GradNorm", "alpha", self.alpha, 0)

    def init(self, gram: Array) -> State:
        return {"first_losses": 0 * array_namespace(gram).linalg.diagonal(gram)}

    def update(self, gram: Array, state: State, /, *, losses: Array) -> tuple[Array, State]:
        xp = array_namespace(gram)
        active = has_gradient(gram)
        # the value of a loss that is left out may be anything, and one at or below 0 is no measure of later ones
        losses = xp.where(active > 0, losses, 0)
        first = state["first_losses"]
        first = xp.where((first <= 0) & (losses > 0) & xp.isfinite(losses), losses, first)
        left = at_least(xp.where(first > 0, losses / xp.where(first > 0, first, 1), 0 * losses), 0)
        average = mean(left, active)
        rate = xp.where(average > 0, left / xp.where(average > 0, average, 1), 1)
        inverse_norm = inverse_norms(gram)
        # relative to the largest, which keeps norms of any size from overflowing
        amplitude = rate**self.alpha * (inverse_norm / xp.where(xp.sum(active) > 0, xp.max(inverse_norm), 1))
        total = mean(amplitude, active)
        return amplitude * active / xp.where(total > 0, total, 1), {"first_losses": first}
