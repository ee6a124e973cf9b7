"""Learning rate annealing for physics-informed networks: data losses brought up to the equation's gradient."""

from __future__ import annotations

from dataclasses import dataclass

from ..rule import Array, State, array_namespace
from ._linalg import inverse_norms
from ._shares import check_range


@dataclass(frozen=True)
class PINNAnnealing:
    """Each data loss weighted by the largest entry of the residual's gradient over its own mean absolute entry.

    Parameter by parameter, with ``g_r`` the gradient of the residual loss, ``d = g_r + sum_i lambda_i g_i`` and
    ``lambda_i = max |g_r| / mean |g_i|``; (m, ...) -> (...). A loss that does not reach a parameter adds nothing
    there; where the residual does not (an equation of derivatives never reaches the last bias) the others have
    weight 1, so that it is trained all the same.

    The statistics are those of one parameter tensor, at this step. The paper takes them over the whole network and
    averages over steps, which neither a rule on one parameter's coordinates nor one on the Gram matrix can see;
    `PINNNormAnnealing` does both with norms.

    Args:
        residual: name of the equation's loss.

    Signals:
        names: come by themselves.

    Raises:
        ValueError: the step has no loss of that name.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[3.0, -4.0], [0.25, 0.75]])
        >>> PINNAnnealing().combine(rows, names=("residual", "boundary"))           # lambda = 4 / 0.5
        array([5., 2.])

    Reference:
        Wang, Teng, Perdikaris. Understanding and Mitigating Gradient Flow Pathologies in Physics-Informed Neural
        Networks. SIAM Journal on Scientific Computing 43(5), 2021, arXiv:2001.04536, Algorithm 1 with alpha = 1.
    """

    residual: str = "residual"

    def combine(self, rows: Array, /, *, names: tuple[str, ...]) -> Array:
        xp = array_namespace(rows)
        r = _index("PINNAnnealing", self.residual, names)
        magnitude = xp.abs(xp.reshape(rows, (rows.shape[0], -1)))
        largest, average = xp.max(magnitude[r]), xp.mean(magnitude, axis=-1)
        weight = xp.where(largest > 0, largest / xp.where(average > 0, average, 1), 1)
        return sum((rows[i] if i == r else weight[i] * rows[i] for i in range(rows.shape[0])), 0 * rows[0])


@dataclass(frozen=True)
class PINNNormAnnealing:
    """Each data loss weighted by the norm of the residual's gradient over that of its own, averaged over steps.

    ``lambda_i <- (1 - alpha) lambda_i + alpha |g_r| / |g_i|``, from ``lambda_i = 1``; weight 1 for the residual
    itself; (m, m) -> (m,). A loss whose gradient is exactly zero is left out and keeps its average; so do all on a
    step where the residual's is zero.

    Args:
        residual: name of the equation's loss.
        alpha: how fast the weights follow, in (0, 1].

    Signals:
        names: come by themselves.

    Raises:
        ValueError: alpha out of its range; the step has no loss of that name.

    Example:
        >>> import numpy as np
        >>> rule, gram = PINNNormAnnealing(alpha=0.5), np.diag([100.0, 4.0])
        >>> rule.update(gram, rule.init(gram), names=("residual", "boundary"))[0]   # halfway from 1 to 5
        array([1., 3.])

    Reference:
        Wang, Teng, Perdikaris. Understanding and Mitigating Gradient Flow Pathologies in Physics-Informed Neural
        Networks. SIAM Journal on Scientific Computing 43(5), 2021, arXiv:2001.04536, Algorithm 1, with norms for its
        maximum and mean; so do the authors in: Wang, Sankaran, Wang, Perdikaris. An Expert's Guide to Training
        Physics-Informed Neural Networks. arXiv:2308.08468, Algorithm 1 (there over the sum of all norms).
    """

    residual: str = "residual"
    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_range("PINNNormAnnealing", "alpha", self.alpha, 0, 1)

    def init(self, gram: Array) -> State:
        return {"weights": 0 * array_namespace(gram).linalg.diagonal(gram) + 1}

    def update(self, gram: Array, state: State, /, *, names: tuple[str, ...]) -> tuple[Array, State]:
        xp = array_namespace(gram)
        r = _index("PINNNormAnnealing", self.residual, names)
        inverse_norm = inverse_norms(gram)
        active = xp.astype(inverse_norm > 0, gram.dtype)
        ratio = inverse_norm / xp.where(active[r] > 0, inverse_norm[r], 1)
        old = state["weights"]
        new = xp.where(active * active[r] > 0, (1 - self.alpha) * old + self.alpha * ratio, old)
        # the residual's own ratio is 1 up to rounding; over many steps that would drift
        new = xp.stack([0 * new[i] + 1 if i == r else new[i] for i in range(len(names))])
        return new * active, {"weights": new}


def _index(rule: str, name: str, names: tuple[str, ...]) -> int:
    if name not in names:
        raise ValueError(f"{rule} needs the loss {name!r}; this step has {list(names)}")
    return names.index(name)
