"""Norm balance: each loss gets a fixed share of the gradient's norm (EnCodec's balancer)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import by_name, check_nonnegative, check_positive, check_range
from ._shares import mean
from ._solvers.correlations import inverse_norms


@dataclass(frozen=True)
class NormBalance:
    """Weights that say which share of the gradient each loss contributes, whatever its scale.

    ``w_i = norm * share_i / (sum_j share_j * <|g_i|>)``, where ``<|g_i|>`` is the exponential moving average of the
    gradient norm with decay beta, corrected for its start; (m, m) -> (m,). So the weights stay right when a loss
    changes its scale slowly, and a step of unusually large gradients is still a large step.

    A loss whose gradient is exactly zero is left out: the shares are those among the others, and its average waits.

    Args:
        shares: name -> share, >= 0; None: equal.
        norm: the length that the weighted gradients' norms add up to, > 0.
        beta: decay of the moving average, in [0, 1); 0 takes each step's own norms.

    Raises:
        ValueError: an argument out of its range; a loss without a share.

    Example:
        >>> import numpy as np
        >>> rule, gram = NormBalance({"mel": 3.0, "adversarial": 1.0}), np.diag([100.0, 0.01])
        >>> rule.update(gram, rule.init(gram), names=("mel", "adversarial"))[0]     # 3/4 and 1/4 of the norm
        array([0.075, 2.5  ])

    Reference:
        Défossez, Copet, Synnaeve, Adi. High Fidelity Neural Audio Compression. TMLR 2023, arXiv:2210.13438,
        section 3.4.

    Deviations:
        The authors balance the gradients at the decoder's output; here it is those at the parameters. They add 1e-12
        to the average; leaving out zero gradients needs no constant.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    shares: Mapping[str, float] | None = field(default=None, hash=False)
    norm: float = 1.0
    beta: float = 0.999

    def __post_init__(self) -> None:
        check_nonnegative("NormBalance", "shares", self.shares)
        check_positive("NormBalance", "norm", self.norm)
        check_range("NormBalance", "beta", self.beta, 0, 1, below=True)

    def init(self, gram: Array) -> State:
        zero = 0 * array_namespace(gram).linalg.diagonal(gram)
        return {"norms": zero, "count": zero}

    def update(self, gram: Array, state: State, /, *, names: tuple[str, ...] | None = None) -> tuple[Array, State]:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        active = xp.astype(inverse_norm > 0, gram.dtype)
        length = active / xp.where(active > 0, inverse_norm, 1)
        norms = xp.where(active > 0, self.beta * state["norms"] + length, state["norms"])
        count = xp.where(active > 0, self.beta * state["count"] + 1, state["count"])
        share = by_name("NormBalance", "share", self.shares, names, length, 1.0) * active
        total = mean(share, active) * xp.sum(active)
        share = share / xp.where(total > 0, total, 1)
        weights = self.norm * share * count / xp.where(active > 0, norms, 1)
        return weights, {"norms": norms, "count": count}
