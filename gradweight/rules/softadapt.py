"""SoftAdapt: more weight for losses that fall slowly, or rise, from one step to the next."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..rule import Array, State, array_namespace
from ._arguments import check_range
from ._shares import has_gradient, log, softmax
from ._solvers.arrays import total


@dataclass(frozen=True)
class SoftAdapt:
    """The softmax of how the losses have changed since the last step.

    With ``s_i = L_i(t) - L_i(t - 1)``, ``w_i = n exp(beta s_i) / sum_j exp(beta s_j)``; (m, m) -> (m,), of sum n, the
    number of losses. On the first step all weights are 1.

    ``rates="normalized"`` divides s by ``sum_j |s_j|``, and ``"ratios"`` takes ``s_i = L_i(t) / L_i(t - 1)``, both of
    which do not depend on the losses' scale. ``weigh_by_loss`` multiplies each term by its loss, ``L_i exp(beta s_i)``.

    Needs no gradients, so that a step is one backward: see `gradweight.rule`. Given a Gram matrix all the same, it
    leaves out a loss whose gradient is exactly zero, of n too.

    Args:
        beta: above 0 favours the losses that fall least, below 0 those that fall most.
        rates: "differences", "normalized" or "ratios".
        weigh_by_loss: the loss-weighted variant; losses are positive then, and one at 0 has weight 0.

    Signals:
        losses: supplied automatically; positive for ``rates="ratios"``.

    Raises:
        ValueError: beta is not finite; no such ``rates``.

    Example:
        >>> import numpy as np
        >>> rule, gram = SoftAdapt(beta=1.0, rates="ratios"), np.eye(2)
        >>> _, state = rule.update(gram, rule.init(gram), losses=np.array([1.0, 4.0]))
        >>> rule.update(gram, state, losses=np.array([1.0, 2.0]))[0].round(4)               # the first stands still
        array([1.2449, 0.7551])

    Reference:
        Heydari, Thompson, Mehmood. SoftAdapt: Techniques for Adaptive Loss Weighting of Neural Networks with
        Multi-Part Loss Functions. arXiv:1912.12355, the original, the normalized and the loss-weighted variant, and
        its beta. PhysicsNeMo Sym has ratios and beta = 1.

    Deviations:
        The paper's weights add up to 1; here to n, as PhysicsNeMo Sym's, so that the first steps are those of the sum.
        Its rates may be finite differences over more steps than one; for those wrap it, ``CRMOGM(SoftAdapt())``.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    needs_gradients: ClassVar[bool] = False
    beta: float = 0.1
    rates: Literal["differences", "normalized", "ratios"] = "differences"
    weigh_by_loss: bool = False

    def __post_init__(self) -> None:
        check_range("SoftAdapt", "beta", self.beta, -float("inf"))
        if self.rates not in ("differences", "normalized", "ratios"):
            raise ValueError(f"SoftAdapt needs rates 'differences', 'normalized' or 'ratios'; got {self.rates!r}")

    def init(self, gram: Array) -> State:
        zero = 0 * array_namespace(gram).linalg.diagonal(gram)
        return {"last": zero, "seen": zero}

    def update(self, gram: Array, state: State, /, *, losses: Array) -> tuple[Array, State]:
        xp = array_namespace(gram)
        active, last, seen = has_gradient(gram), state["last"], state["seen"] > 0
        if self.rates == "ratios":
            rate = xp.where(last > 0, losses / xp.where(last > 0, last, 1), 1)
        else:
            rate = xp.where(seen, losses - last, 0 * losses)
        if self.rates == "normalized":
            whole = total(xp.where(active > 0, xp.abs(rate), 0))
            rate = rate / xp.where(whole == 0, 1, whole)
        score = self.beta * rate
        if self.weigh_by_loss:
            # not before there is a rate: the first step is the plain sum
            score = score + xp.where(xp.all(seen | (active <= 0)), log(losses), 0)
        weights = xp.sum(active) * softmax(score, active)
        now = (active > 0) & xp.isfinite(losses)
        return weights, {"last": xp.where(now, losses, last), "seen": xp.where(now, 1, state["seen"])}
