"""Learning rate annealing for physics-informed networks: data losses brought up to the equation's gradient."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import check_range, position
from ._shares import has_gradient
from ._solvers.correlations import inverse_norms


@dataclass(frozen=True)
class PINNAnnealing:
    """Each data loss weighted by the largest entry of the residual's gradient over its own mean entry.

    ``lambda_i <- (1 - alpha) lambda_i + alpha max |g_r| / mean |g_i|``, from ``lambda_i = 1``, maximum and mean over
    the absolute entries of the whole gradient, which is zero where a loss does not reach a parameter; weight 1 for the
    residual itself; (m, m) -> (m,). A loss whose gradient is exactly zero is left out and keeps its average; so do all
    on a step where the residual's is zero.

    Args:
        residual: name of the equation's loss.
        alpha: how fast the weights follow, in (0, 1].

    Signals:
        names, max_abs, mean_abs: supplied automatically.

    Raises:
        ValueError: alpha out of its range; the step has no loss of that name.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[3.0, -4.0], [0.25, 0.75]])
        >>> rule, names, entries = PINNAnnealing(alpha=0.5), ("residual", "boundary"), np.abs(rows)
        >>> state = rule.init(rows @ rows.T)
        >>> rule.update(rows @ rows.T, state, names=names, max_abs=entries.max(1), mean_abs=entries.mean(1))[0]
        array([1. , 4.5])

    Reference:
        Wang, Teng, Perdikaris. Understanding and Mitigating Gradient Flow Pathologies in Physics-Informed Neural
        Networks. SIAM Journal on Scientific Computing 43(5), 2021, arXiv:2001.04536, Algorithm 1. The authors' code
        differs from it: there, maximum and mean go over the weight matrices without the biases, the mean is that of
        the layers' means, that of the loss times its present weight, and weights are renewed on every tenth step.
        The default of alpha is the code's. For weights of their own for each parameter tensor, use ``blocks=``.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    residual: str = "residual"
    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_range("PINNAnnealing", "alpha", self.alpha, 0, 1, open_low=True)

    def init(self, gram: Array) -> State:
        return {"weights": 0 * array_namespace(gram).linalg.diagonal(gram) + 1}

    def update(
        self, gram: Array, state: State, /, *, names: tuple[str, ...], max_abs: Array, mean_abs: Array
    ) -> tuple[Array, State]:
        xp = array_namespace(gram)
        r = position("PINNAnnealing", self.residual, names)
        active = has_gradient(gram)
        ratio = max_abs[r] / xp.where(active * mean_abs > 0, mean_abs, 1)
        new = _moving_average(state["weights"], ratio, active, r, self.alpha)
        return new * active, {"weights": new}


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
        names: supplied automatically.

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

    faster_on_numpy_from: ClassVar[int] = 1

    residual: str = "residual"
    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_range("PINNNormAnnealing", "alpha", self.alpha, 0, 1, open_low=True)

    def init(self, gram: Array) -> State:
        return {"weights": 0 * array_namespace(gram).linalg.diagonal(gram) + 1}

    def update(self, gram: Array, state: State, /, *, names: tuple[str, ...]) -> tuple[Array, State]:
        xp = array_namespace(gram)
        r = position("PINNNormAnnealing", self.residual, names)
        inverse_norm = inverse_norms(gram)
        active = xp.astype(inverse_norm > 0, gram.dtype)
        ratio = inverse_norm / xp.where(active[r] > 0, inverse_norm[r], 1)
        new = _moving_average(state["weights"], ratio, active, r, self.alpha)
        return new * active, {"weights": new}


def _moving_average(old: Array, ratio: Array, active: Array, r: int, alpha: float) -> Array:
    """The weights that follow ``ratio`` where the loss and the residual, r, have a gradient; 1 for the residual."""
    xp = array_namespace(old)
    new = xp.where(active * active[r] > 0, (1 - alpha) * old + alpha * ratio, old)
    return xp.stack([0 * old[i] + 1 if i == r else new[i] for i in range(old.shape[0])])
