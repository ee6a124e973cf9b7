"""FAMO: all losses at one relative rate of decrease, learnt from the loss values alone."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import check_range
from ._shares import has_gradient, log, softmax


@dataclass(frozen=True)
class FAMO:
    """Fast adaptive multitask optimization: raise the share of losses that have fallen less than the others.

    With shares ``z = softmax(xi)``, the direction is ``c sum_i z_i grad log L_i`` scaled to weights of sum 1,
    ``w_i = (z_i / L_i) / sum_j z_j / L_j``; (m, m) -> (m,). After the step, with ``delta_i = log L_i(t) -
    log L_i(t + 1)`` the relative decrease, ``xi <- xi - beta (J' delta + gamma xi)``, ``J = diag(z) - z z'`` the
    derivative of the softmax.

    A loss at ``minimum``, whose 1/L_i would take all the weight, is left out: its weight and its update are zero, and z
    are shares among the others. If one is below (a likelihood, a critic's), the bound is wrong: all weights are NaN, as
    for a loss that is NaN itself. Needs no gradients, so that a step is one backward: see `gradweight.rule`.
    Given a Gram matrix all the same, it leaves out a loss whose gradient is exactly zero, too.

    Args:
        beta: learning rate of the logits, >= 0.
        gamma: weight decay of the logits, >= 0.
        minimum: lower bound of the losses, subtracted before the logarithm.

    Signals:
        losses: supplied automatically; at least ``minimum`` (what is at it is left out).

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import numpy as np
        >>> rule, gram = FAMO(beta=1.0), np.eye(2)
        >>> weights, state = rule.update(gram, rule.init(gram), losses=np.array([1.0, 4.0]))
        >>> weights
        array([0.8, 0.2])
        >>> _, state = rule.update(gram, state, losses=np.array([0.5, 4.0]))       # the first fell, the second not
        >>> bool(state["logits"][1] > state["logits"][0])
        True

    Reference:
        Liu, Feng, Stone, Liu. FAMO: Fast Adaptive Multitask Optimization. NeurIPS 2023, arXiv:2306.03792,
        Algorithm 1. The algorithm evaluates the losses again after the step; here they are those of the next step,
        on the next batch, which costs no forward pass and adds the noise between batches. The authors' code runs
        Adam on the logits, ours the plain gradient step of the paper.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    needs_gradients: ClassVar[bool] = False
    beta: float = 0.025
    gamma: float = 0.001
    minimum: float = 0.0

    def __post_init__(self) -> None:
        check_range("FAMO", "beta", self.beta, 0)
        check_range("FAMO", "gamma", self.gamma, 0)
        check_range("FAMO", "minimum", self.minimum, -math.inf)

    def init(self, gram: Array) -> State:
        zero = 0 * array_namespace(gram).linalg.diagonal(gram)
        # no shares before the first step, and so no update from what has not been seen
        return {"logits": zero, "shares": zero, "log_losses": zero}

    def update(self, gram: Array, state: State, /, *, losses: Array) -> tuple[Array, State]:
        xp = array_namespace(gram)
        # not `losses > minimum`, by which a NaN would be left out instead of reaching the weights
        active = has_gradient(gram) * xp.astype(xp.logical_not(losses <= self.minimum), gram.dtype)
        log_losses = xp.where(active > 0, log(losses - self.minimum), state["log_losses"])
        shares = state["shares"] * active
        shares = shares / xp.where(xp.sum(shares) > 0, xp.sum(shares), 1)  # of those that are there now
        known = xp.isfinite(log_losses)
        decrease = xp.where(known, state["log_losses"] - log_losses, 0)
        gradient = shares * (decrease - xp.sum(shares * decrease))
        logits = state["logits"] - self.beta * (gradient + self.gamma * state["logits"])
        weights = softmax(logits - log_losses, active)
        weights = xp.where(xp.any(has_gradient(gram) * (losses - self.minimum) < 0), xp.nan, weights)
        seen = xp.where(known, log_losses, state["log_losses"])
        return weights, {"logits": logits, "shares": softmax(logits, active), "log_losses": seen}
