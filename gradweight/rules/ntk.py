"""Neural tangent kernel weights: losses brought to one speed of convergence, by the traces of their kernels."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import check_range
from ._shares import has_gradient
from ._solvers.arrays import total
from ._solvers.correlations import inverse_norms


@dataclass(frozen=True)
class NTKWeight:
    """Each loss weighted by the share that its neural tangent kernel has in that of all: fast ones are held back.

    ``w_i = sum_j k_j / k_i``; (m, m) -> (m,), at least 1. From Gram matrix and losses, ``k_i = |grad sqrt|L_i|| =
    |g_i| / (2 sqrt|L_i|)``: for a mean square of N residuals r, ``k_i^2 = r'K_i r / (N r'r)``, the mean of the kernel's
    eigenvalues over those that the residual is made of. From the signal ``traces``, ``k_i = tr K_i`` as in the paper.

    k is averaged over steps, ``k <- beta k + (1 - beta) k_now``, corrected for its start. A loss that is 0 or whose
    gradient is exactly zero is left out: its weight is 0, it is in no sum, and its average waits.

    Args:
        beta: decay of the average, in [0, 1); 0 takes each step's own. One probe of a trace has a relative deviation of
            up to ``sqrt 2``, that of a kernel with one large eigenvalue, and the average of many ``sqrt((1 - beta) /
            (1 + beta))`` times that: 0.1 for 0.99, which takes some hundred steps to forget the start.

    Signals:
        losses: supplied automatically.
        traces: (m,), the traces of the kernels of the residuals, such as `gradweight.pinn.kernel_trace` estimates;
            None: from Gram matrix and losses.

    Raises:
        ValueError: beta out of its range.

    Example:
        >>> import numpy as np
        >>> rule, gram = NTKWeight(), np.diag([36.0, 4.0])                              # k = 6 / 2, 2 / 4
        >>> rule.update(gram, rule.init(gram), losses=np.array([1.0, 4.0]))[0].round(4)
        array([1.1667, 7.    ])

    Reference:
        Wang, Yu, Perdikaris. When and Why PINNs Fail to Train: A Neural Tangent Kernel Perspective. Journal of
        Computational Physics 449, 2022, arXiv:2007.14527, Algorithm 1, and the class ``NTK`` of PhysicsNeMo Sym, whose
        kernel value is that from the loss. Both renew the weights on every so many steps (1000 in PhysicsNeMo Sym),
        which is ``refresh_every`` of the optimizer. jaxpi sums squared gradients of single points, and averages the
        weights.

    Deviations:
        PhysicsNeMo Sym has plain sums before the first renewal; here the weights are those from the first step on.
        What is averaged is k, whose estimate by probes has no bias, and not the weights, whose has.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    beta: float = 0.0

    def __post_init__(self) -> None:
        check_range("NTKWeight", "beta", self.beta, 0, 1, below=True)

    def init(self, gram: Array) -> State:
        zero = 0 * array_namespace(gram).linalg.diagonal(gram)
        return {"kernels": zero, "count": zero}

    def update(
        self, gram: Array, state: State, /, *, losses: Array, traces: Array | None = None
    ) -> tuple[Array, State]:
        xp = array_namespace(gram)
        inverse_norm, size = inverse_norms(gram), xp.abs(losses)
        # not `size > 0`, by which a NaN would be left out instead of reaching the weights
        there = (has_gradient(gram) > 0) & xp.logical_not(size == 0)
        if traces is None:
            now = 0.5 / (xp.where(there, inverse_norm, 1) * xp.sqrt(xp.where(there, size, 1)))
        else:
            now = xp.where(there, traces, 1)
        kernels = self.beta * state["kernels"] + (1 - self.beta) * now
        count = self.beta * state["count"] + (1 - self.beta)
        average = xp.where(there, kernels / count, 0)
        weights = xp.where(there & xp.logical_not(average == 0), total(average) / xp.where(there, average, 1), 0)
        kept = there & xp.isfinite(now)
        after = {
            "kernels": xp.where(kept, kernels, state["kernels"]),
            "count": xp.where(kept, count, state["count"]),
        }
        return weights, after
