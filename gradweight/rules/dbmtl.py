"""DB-MTL: the gradients of the losses' logarithms, averaged over the steps, all as long as the longest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, Names, State, array_namespace
from ._arguments import check_range
from ._solvers.correlations import inverse_norms


@dataclass(frozen=True)
class DBMTL:
    """Dual balancing: gradients of the logarithms of the losses, averaged, and all as long as the longest of them.

    ``u_i <- b_t u_i + (1 - b_t) g_i / L_i``, from 0, with ``b_t = beta / t^decay`` on step t = 1, 2, ..., and
    ``d = sum_i (max_j |u_j| / |u_i|) u_i``; (m, m) -> (m,), the Gram matrix being that of the averages u. With
    ``beta=0`` there are no averages, and nothing as large as the parameters is kept: u_i = g_i / L_i, and the weights
    are those of the gradients, ``max_j (|g_j| / L_j) / |g_i|``.

    A loss whose gradient or average is exactly zero is left out; so is the gradient of a loss of 0. A negative loss,
    which has no logarithm, makes all weights NaN.

    Args:
        beta: share of the old average on the first step, in [0, 1).
        decay: power of the step that it falls with, at least 0.

    Signals:
        losses: supplied automatically; at least 0.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import numpy as np
        >>> rule, gram = DBMTL(beta=0.0), np.diag([1.0, 100.0])
        >>> rule.update(gram, rule.init(gram), losses=np.array([0.5, 1.0]))[0]     # |u| = (2, 10)
        array([10.,  1.])

    Reference:
        Lin, Jiang, Ye, Zhang, Chen, Chen, Liu, Tsang, Kwok. Dual-Balancing for Multi-Task Learning. Neural Networks
        2025, arXiv:2308.12029, Algorithm 1.

    Deviations:
        LibMTL adds 1e-8 to losses and norms; leaving out what is zero needs no constant.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    beta: float = 0.9
    decay: float = 0.5

    def __post_init__(self) -> None:
        check_range("DBMTL", "beta", self.beta, 0, 1, below=True)
        check_range("DBMTL", "decay", self.decay, 0)

    def init(self, gram: Array) -> State:
        return {"steps": 0 * gram[..., 0, 0]}

    @property
    def average(self) -> Callable[..., tuple[Array, Array, State]] | None:
        """How the averages go on; None without them."""
        return self._average if self.beta > 0 else None

    def _average(self, state: State, /, *, losses: Array) -> tuple[Array, Array, State]:
        xp = array_namespace(losses)
        old = self.beta / (state["steps"] + 1) ** self.decay
        return old * xp.ones_like(losses), (1 - old) * _inverse(losses), state

    def update(self, gram: Array, state: State, /, *, losses: Array, names: Names = None) -> tuple[Array, State]:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        active = inverse_norm > 0
        length = xp.where(active, 1 / xp.where(active, inverse_norm, 1), 0)
        if self.beta == 0:
            length = xp.where(active, length * _inverse(losses), 0)
            active = active & xp.logical_not(losses == 0)
        weights = xp.where(active, xp.max(length) * inverse_norm, 0)
        return weights, {"steps": state["steps"] + 1}


def _inverse(losses: Array) -> Array:
    """1/L, 0 for a loss of 0, NaN for a negative one: (m,) -> (m,)."""
    xp = array_namespace(losses)
    return xp.where(losses == 0, 0, xp.where(losses < 0, xp.nan, 1 / xp.where(losses == 0, 1, losses)))
