"""MetaBalance: auxiliary gradients brought to the length of the target's."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..rule import Array, State, array_namespace
from ._arguments import check_range, position
from ._solvers.correlations import inverse_norms


@dataclass(frozen=True)
class MetaBalance:
    """Every auxiliary gradient scaled towards the target's norm, by averages over the steps.

    With ``<|g_i|>`` the exponential moving average of the norm, with decay beta, ``w_i = 1 - relax + relax <|g_t|> /
    <|g_i|>`` for an auxiliary loss, and 1 for the target t; (m, m) -> (m,). The paper scales for each parameter tensor
    by itself: ``blocks="layer"`` of the optimizer, or ``blocks=lambda name: name``.

    A loss whose gradient is exactly zero is left out, and its average waits. Until the target has had a gradient the
    weights are 1.

    Args:
        target: name of the loss that counts.
        relax: how near to bring the norms, in [0, 1]: 0 is the plain sum, 1 makes them equal.
        beta: decay of the averages, in [0, 1).
        when: "always", only auxiliary gradients that are "longer" than the target's, or only "shorter" ones.

    Raises:
        ValueError: an argument out of its range; the step has no loss of the target's name.

    Example:
        >>> import numpy as np
        >>> rule, gram = MetaBalance("click", relax=0.5), np.diag([9.0, 1.0])           # norms 3 and 1
        >>> rule.update(gram, rule.init(gram), names=("click", "view"))[0]
        array([1., 2.])

    Reference:
        He, Feng, Cheng, Ji, Guo, Caverlee. MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient
        Magnitudes of Auxiliary Tasks. The Web Conference 2022, arXiv:2203.06801, Algorithm 1; ``when`` is its
        strategies C, A and B.

    Deviations:
        The averages are corrected for their start, which makes no difference while all losses have been there as long;
        no 1e-5 is added to them.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    target: str
    relax: float = 0.7
    beta: float = 0.9
    when: Literal["always", "longer", "shorter"] = "always"

    def __post_init__(self) -> None:
        check_range("MetaBalance", "relax", self.relax, 0, 1)
        check_range("MetaBalance", "beta", self.beta, 0, 1, below=True)
        if self.when not in ("always", "longer", "shorter"):
            raise ValueError(f"MetaBalance needs when 'always', 'longer' or 'shorter'; got {self.when!r}")

    def init(self, gram: Array) -> State:
        zero = 0 * array_namespace(gram).linalg.diagonal(gram)
        return {"norms": zero, "count": zero}

    def update(self, gram: Array, state: State, /, *, names: tuple[str, ...]) -> tuple[Array, State]:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        t = position("MetaBalance", self.target, names)
        active = inverse_norm > 0
        length = 1 / xp.where(active, inverse_norm, 1)
        norms = xp.where(active, self.beta * state["norms"] + length, state["norms"])
        count = xp.where(active, self.beta * state["count"] + 1, state["count"])
        average = norms / xp.where(count > 0, count, 1)
        ratio = xp.where(average[t] > 0, average[t], average) / xp.where(average > 0, average, 1)
        if self.when != "always":
            ratio = xp.where(ratio < 1 if self.when == "longer" else ratio > 1, ratio, 1)
        weights = xp.where(active, 1 + self.relax * (ratio - 1), 0)
        return weights, {"norms": norms, "count": count}
