"""The geometric mean of the losses, which no loss's scale can change the balance of."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._shares import has_gradient, log, mean
from ._solvers.arrays import at_least


@dataclass(frozen=True)
class GeometricMean:
    """The gradient of ``f = (prod_i L_i)^(1/n)``.

    ``w_i = f / (n L_i)``; (m, m) -> (m,), over the n losses that are positive: one that has reached 0 (a hinge that
    is satisfied) has nothing left to fall, and would make f, and every other weight, 0. Multiplying a loss by a
    positive number leaves the direction as it is.

    A negative loss (a likelihood, a critic's) has no geometric mean with the others: all weights are then NaN, as for a
    loss that is NaN itself. Give it a lower bound that it stays above and add that, or take another rule.

    Needs no gradients, so that a step is one backward: see `gradweight.rule`. Given a Gram matrix all the same, it
    leaves out a loss whose gradient is exactly zero.

    Signals:
        losses: supplied automatically; at least 0 (what is 0 is left out).

    Example:
        >>> import numpy as np
        >>> GeometricMean()(np.eye(2), losses=np.array([1.0, 4.0])).round(12)      # f = 2
        array([1.  , 0.25])

    Reference:
        Chennupati, Sistu, Yogamani, Rawashdeh. MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss
        Strategy for Multi-Task Learning. CVPR Workshops 2019, arXiv:1904.08492, Eq. 2.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    needs_gradients: ClassVar[bool] = False

    def __call__(self, gram: Array, /, *, losses: Array) -> Array:
        xp = array_namespace(gram)
        # not `losses > 0`, by which a NaN would be left out instead of reaching the weights
        active = has_gradient(gram) * xp.astype(xp.logical_not(losses <= 0), gram.dtype)
        log_losses = log(losses)
        spread = xp.where(active > 0, mean(log_losses, active) - log_losses, 0)
        weights = active * xp.exp(spread) / at_least(xp.sum(active), 1)
        return xp.where(xp.any(has_gradient(gram) * losses < 0), xp.nan, weights)
