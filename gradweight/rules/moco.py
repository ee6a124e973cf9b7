"""MoCo: MGDA's weights approached over many steps, from averages of the gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, Names, State, array_namespace
from ._arguments import check_positive, check_range
from ._solvers.arrays import matvec
from ._solvers.correlations import inverse_norms
from ._solvers.simplex import equal_shares, simplex_projection


@dataclass(frozen=True)
class MoCo:
    """Averages that correct the bias of small batches, and one step each time towards MGDA's weights of them.

    ``y_i <- y_i - beta_t (y_i - g_i)``, ``w <- simplex(w - gamma_t (Y Y' w + rho w))`` and ``d = sum_i w_i y_i``, with
    ``beta_t = beta / t^beta_decay`` and ``gamma_t = gamma / t^gamma_decay`` on step t = 1, 2, ..., from y = 0 and
    w = 1/m; (m, m) -> (m,), the Gram matrix being Y Y' of the averages.

    A loss whose average is exactly zero is left out of the simplex; when it comes back, its w starts from 0.

    Args:
        beta: share of the new gradient in the average on the first step, in (0, 1].
        beta_decay: power of the step that it falls with, at least 0.
        gamma: learning rate of the weights on the first step, above 0, in units of 1/|y|^2.
        gamma_decay: power of the step that it falls with, at least 0.
        rho: pull towards equal weights, at least 0.
        by_loss: average ``L_i g_i / |g_i|``, gradients as long as their losses, in place of g_i, as the authors' code
            does: then gamma need not go by the scale of the gradients. A negative loss, whose gradient that would turn
            round, makes all weights NaN.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import numpy as np
        >>> rule, averages = MoCo(gamma=0.1), np.diag([1.0, 4.0])
        >>> weights, state = rule.update(averages, rule.init(averages))
        >>> weights
        array([0.575, 0.425])

    Reference:
        Fernando, Shen, Liu, Chaudhury, Murugesan, Chen. Mitigating Gradient Bias in Multi-objective Learning: A
        Provably Convergent Approach. ICLR 2023, arXiv:2210.12624, Algorithm 1.

    Deviations:
        The averages are not projected on a ball, whose radius would have to be known. The step follows the averages and
        weights of this step. LibMTL has a softmax in place of the projection on the simplex; the defaults are its.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    beta: float = 0.5
    beta_decay: float = 0.5
    gamma: float = 0.1
    gamma_decay: float = 0.5
    rho: float = 0.0
    by_loss: bool = False

    def __post_init__(self) -> None:
        check_range("MoCo", "beta", self.beta, 0, 1, open_low=True)
        check_range("MoCo", "beta_decay", self.beta_decay, 0)
        check_positive("MoCo", "gamma", self.gamma)
        check_range("MoCo", "gamma_decay", self.gamma_decay, 0)
        check_range("MoCo", "rho", self.rho, 0)

    def init(self, gram: Array) -> State:
        return equal_shares(gram) | {"steps": 0 * gram[..., 0, 0]}

    @property
    def average(self) -> Callable[..., tuple[Array, Array, State]]:
        """How the averages go on; only by loss are the norms of the gradients needed."""
        return self._average_by_loss if self.by_loss else self._average

    def _average(self, state: State, /, *, due: Array) -> tuple[Array, Array, State]:
        new = self.beta / (state["steps"] + 1) ** self.beta_decay + 0 * due
        return 1 - new, new, state

    def _average_by_loss(self, state: State, /, *, losses: Array, norms: Array) -> tuple[Array, Array, State]:
        xp = array_namespace(norms)
        keep, new, _ = self._average(state, due=norms)
        length = xp.where(losses < 0, xp.nan, losses)
        return keep, xp.where(norms > 0, new * length / xp.where(norms > 0, norms, 1), 0), state

    def update(
        self, gram: Array, state: State, /, *, names: Names = None, losses: Array | None = None
    ) -> tuple[Array, State]:
        steps = state["steps"] + 1
        active = inverse_norms(gram) > 0
        w = simplex_projection(state["w"], active)
        gradient = matvec(gram, w) + self.rho * w
        w = simplex_projection(w - self.gamma / steps**self.gamma_decay * gradient, active)
        return w, {"w": w, "steps": steps}
