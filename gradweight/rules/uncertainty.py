"""Uncertainty weighting: each loss divided by the noise that it is estimated to have."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import check_positive, check_range
from ._shares import followed, has_gradient


@dataclass(frozen=True)
class Uncertainty:
    """Homoscedastic uncertainty: minimise ``sum_i L_i / (2 sigma_i^2) + log sigma_i`` over the noise as well.

    ``w_i = 1 / (2 sigma_i^2)``; (m, m) -> (m,), where the noise variances follow the gradient flow of that objective
    in ``s_i = log sigma_i^2`` for a time ``lr`` per step. The flow ``ds/dt = (L e^-s - 1)/2`` has a closed form,

    ``sigma_i^2 <- L_i + (sigma_i^2 - L_i) exp(-lr/2)``,

    a moving average of the loss: uncertainty weighting divides each loss by twice its recent mean. (It is exact, so
    stable at any learning rate, where a gradient step in s overshoots as soon as lr L > sigma^2.)

    Needs no gradients, so that a step is one backward: see `gradweight.rule`. Given a Gram matrix all the same, it
    leaves out a loss whose gradient is exactly zero, which keeps its variance. Negative losses, for which the
    objective has no minimum, count as 0 here.

    Args:
        lr: learning rate of the log variances, > 0: about 2/lr steps are averaged over.
        initial: the variances to start from, > 0.

    Signals:
        losses: supplied automatically; positive.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import numpy as np
        >>> rule, gram = Uncertainty(lr=1e3), np.eye(2)                 # so fast that sigma^2 = L at once
        >>> rule.update(gram, rule.init(gram), losses=np.array([0.5, 5.0]))[1]["variances"]
        array([0.5, 5. ])

    Reference:
        Kendall, Gal, Cipolla. Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics.
        CVPR 2018, arXiv:1705.07115, Eq. 7 (the factor 1/2 is that of regression). The paper leaves the log variances
        to the optimizer of the network; here they have their own learning rate, and follow the flow exactly.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    needs_gradients: ClassVar[bool] = False
    lr: float = 0.01
    initial: float = 1.0

    def __post_init__(self) -> None:
        check_positive("Uncertainty", "lr", self.lr)
        check_range("Uncertainty", "initial", self.initial, math.ulp(0))

    def init(self, gram: Array) -> State:
        return {"variances": 0 * array_namespace(gram).linalg.diagonal(gram) + self.initial}

    def update(self, gram: Array, state: State, /, *, losses: Array) -> tuple[Array, State]:
        xp = array_namespace(gram)
        active = has_gradient(gram)
        old = state["variances"]
        new = followed(old, losses, active, self.lr / 2)
        # the weights of this step are those of the variances before it, as when both are optimizer parameters
        return active / (2 * xp.where(old > 0, old, 1)), {"variances": new}
