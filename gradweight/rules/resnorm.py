"""ResNorm: weighted losses in proportion to how little each has fallen."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import check_range
from ._shares import has_gradient, log, softmax


@dataclass(frozen=True)
class ResNorm:
    """GradNorm with the values of the losses in the place of the norms of their gradients.

    With ``l_i = L_i / L_i(0)`` and ``r_i = l_i / mean_j l_j``, weighted losses are proportional to ``r_i^alpha`` and
    the weights add up to the number n of losses: ``w_i = n a_i / sum_j a_j``, ``a_i = r_i^alpha / L_i``;
    (m, m) -> (m,). L_i(0) is the first value above 0. At alpha = 0 all weighted losses are equal.

    A loss that has reached 0 is left out, and its weight is 0. A negative one has no such norm: all weights are then
    NaN, as for a loss that is NaN itself. Needs no gradients, so that a step is one backward: see `gradweight.rule`.
    Given a Gram matrix all the same, it leaves out a loss whose gradient is exactly zero.

    Args:
        alpha: how strongly to hold back losses that fall fast, >= 0. Below 1 (for losses that began alike) the smaller
            loss has the larger weight; at 1 the weights are ``1 / L_i(0)``, up to their sum.

    Signals:
        losses: supplied automatically; at least 0 (what is 0 is left out).

    Raises:
        ValueError: alpha out of its range.

    Example:
        >>> import numpy as np
        >>> rule, gram = ResNorm(alpha=0.0), np.eye(2)
        >>> rule.update(gram, rule.init(gram), losses=np.array([1.0, 3.0]))[0]
        array([1.5, 0.5])

    Reference:
        The loss aggregator ``ResNorm`` of PhysicsNeMo Sym, contributed by Nandi, Van Essendelft and Nabian, after:
        Chen, Badrinarayanan, Lee, Rabinovich. GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
        Multitask Networks. ICML 2018, arXiv:1711.02257.

    Deviations:
        There the weights move towards these targets, by descent on ``sum_i |w_i L_i - mean(L) r_i^alpha|``; we set
        them there, which leaves no learning rate to tune, and adds nothing to the value of the loss.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    needs_gradients: ClassVar[bool] = False
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_range("ResNorm", "alpha", self.alpha, 0)

    def init(self, gram: Array) -> State:
        return {"first_losses": 0 * array_namespace(gram).linalg.diagonal(gram)}

    def update(self, gram: Array, state: State, /, *, losses: Array) -> tuple[Array, State]:
        xp = array_namespace(gram)
        there = has_gradient(gram)
        # not `losses > 0`, by which a NaN would be left out instead of reaching the weights
        active = there * xp.astype(xp.logical_not(losses <= 0), gram.dtype)
        first = state["first_losses"]
        first = xp.where((first <= 0) & (active > 0) & xp.isfinite(losses), losses, first)
        # of logarithms only differences are used: the mean of l is a factor that all of a have in common
        left = xp.where((active > 0) & (first > 0), log(losses) - log(xp.where(first > 0, first, 1)), 0 * losses)
        weights = xp.sum(active) * softmax(self.alpha * left - log(losses), active)
        weights = xp.where(xp.any(there * losses < 0), xp.nan, weights)
        return weights, {"first_losses": first}
