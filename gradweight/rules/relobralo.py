"""ReLoBRaLo: more weight for losses that have fallen little, against the last step or, now and then, the first."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import check_positive, check_range, check_whole
from ._shares import has_gradient, softmax
from ._solvers.draws import uniforms


@dataclass(frozen=True)
class ReLoBRaLo:
    """Relative loss balancing with random lookback: a moving average of shares by relative progress.

    With ``b_i(t, s) = n softmax_i(L(t) / (T L(s)))`` over the n losses, and rho drawn anew on each step, 1 with
    probability ``lookback``, else 0: ``w_i(t) = alpha (rho w_i(t - 1) + (1 - rho) b_i(t, 0)) + (1 - alpha)
    b_i(t, t - 1)``; (m, m) -> (m,), of sum n. On the first step all weights are 1.

    Needs no gradients, so that a step is one backward: see `gradweight.rule`. Given a Gram matrix all the same, it
    leaves out a loss whose gradient is exactly zero, of n too. A loss at or below 0 is no measure of later ones: the
    one before it stays.

    Args:
        alpha: how much of the past to keep, in [0, 1).
        lookback: expected value of rho, in [0, 1]: at 1 the first step is never looked back to.
        temperature: T > 0; large T makes the weights equal.
        seed: of the draws, which are a function of the seed and the step: the same on every process, and after a
            resume.

    Signals:
        losses, step: supplied automatically; losses are positive.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import numpy as np
        >>> rule, gram = ReLoBRaLo(alpha=0.0), np.eye(2)
        >>> _, state = rule.update(gram, rule.init(gram), losses=np.array([1.0, 4.0]), step=0)
        >>> rule.update(gram, state, losses=np.array([1.0, 2.0]), step=1)[0].round(4)       # the first stands still
        array([1.2449, 0.7551])

    Reference:
        Bischof, Kraus. Multi-Objective Loss Balancing for Physics-Informed Deep Learning. arXiv:2110.09813. The
        defaults are those of PhysicsNeMo Sym (there ``beta`` is our ``lookback``); the authors' experiments
        have alpha and lookback near 0.999.

    Deviations:
        Neither 1e-8 is added to the losses that are divided by: losses that are no measure are left out.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    needs_gradients: ClassVar[bool] = False
    alpha: float = 0.95
    lookback: float = 0.99
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("ReLoBRaLo", "alpha", self.alpha, 0, 1, below=True)
        check_range("ReLoBRaLo", "lookback", self.lookback, 0, 1)
        check_positive("ReLoBRaLo", "temperature", self.temperature)
        check_whole("ReLoBRaLo", "seed", self.seed, 0)

    def init(self, gram: Array) -> State:
        zero = 0 * array_namespace(gram).linalg.diagonal(gram)
        return {"weights": zero + 1, "first": zero, "last": zero}

    def update(self, gram: Array, state: State, /, *, losses: Array, step: Array) -> tuple[Array, State]:
        xp = array_namespace(gram)
        active = has_gradient(gram)

        def balanced(reference: Array) -> Array:
            ratio = xp.where(reference > 0, losses / xp.where(reference > 0, reference, 1), 1)
            return xp.sum(active) * softmax(ratio / self.temperature, active)

        drawn = uniforms(self.seed, step, (1,), gram)[0] < self.lookback
        past = xp.where(drawn, state["weights"], balanced(state["first"]))
        weights = self.alpha * past + (1 - self.alpha) * balanced(state["last"])

        measured = (active > 0) & xp.isfinite(losses) & (losses > 0)
        fine = xp.all(xp.isfinite(weights) | (active <= 0))
        after = {
            "weights": xp.where((active > 0) & fine, weights, state["weights"]),
            "first": xp.where(measured & (state["first"] <= 0), losses, state["first"]),
            "last": xp.where(measured, losses, state["last"]),
        }
        return xp.where(active > 0, weights, 0), after
