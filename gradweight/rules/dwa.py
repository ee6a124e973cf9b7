"""DWA, dynamic weight average: more weight for losses that fall slowly."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import check_positive, check_whole
from ._shares import has_gradient, softmax
from ._solvers.arrays import at_least


@dataclass(frozen=True)
class DWA:
    """The softmax of how much each loss has changed from one period to the next.

    With ``r_i = L_i(t - 1) / L_i(t - 2)`` the ratio of mean losses over the last two full periods,
    ``w_i = n exp(r_i / T) / sum_j exp(r_j / T)``; (m, m) -> (m,), of sum n, the number of losses. In
    the first two periods ``r_i = 1`` and all weights are 1.

    Needs no gradients, so that a step is one backward: see `gradweight.rule`. Given a Gram matrix all the same, it
    leaves out a loss whose gradient is exactly zero, of n too, and its value of the means.

    Args:
        temperature: T > 0; large T makes the weights equal.
        period: steps that a loss is averaged over, >= 1: an epoch in the paper.

    Signals:
        losses: supplied automatically; positive.

    Raises:
        ValueError: ``temperature`` or ``period`` out of its range.

    Example:
        >>> import numpy as np
        >>> rule, gram = DWA(), np.eye(2)
        >>> state = rule.init(gram)
        >>> for losses in ([1.0, 1.0], [1.0, 0.5], [1.0, 0.25]):
        ...     weights, state = rule.update(gram, state, losses=np.array(losses))
        >>> weights.round(4)                                            # the first stands still
        array([1.1244, 0.8756])

    Reference:
        Liu, Johns, Davison. End-to-End Multi-Task Learning with Attention. CVPR 2019, arXiv:1803.10704, Eq. 7.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    temperature: float = 2.0
    period: int = 1
    needs_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("DWA", "temperature", self.temperature)
        check_whole("DWA", "period", self.period, 1)

    def init(self, gram: Array) -> State:
        zero = 0 * array_namespace(gram).linalg.diagonal(gram)
        return {"sum": zero, "count": zero, "last": zero, "before": zero}

    def update(self, gram: Array, state: State, /, *, losses: Array) -> tuple[Array, State]:
        xp = array_namespace(gram)
        active = has_gradient(gram)
        last, before = state["last"], state["before"]
        ratio = xp.where(before > 0, last / xp.where(before > 0, before, 1), 1)
        weights = xp.sum(active) * softmax(ratio / self.temperature, active)

        seen = (active > 0) & xp.isfinite(losses)
        total = state["sum"] + xp.where(seen, losses, 0)
        count = state["count"] + xp.astype(seen, gram.dtype)
        full = count >= self.period
        after = {
            "sum": xp.where(full, 0, total),
            "count": xp.where(full, 0, count),
            "last": xp.where(full, total / at_least(count, 1), last),
            "before": xp.where(full, last, before),
        }
        return weights, after
