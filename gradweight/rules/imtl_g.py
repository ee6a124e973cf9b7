"""IMTL-G: the affine combination of the gradients with equal projections on all of them."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._solvers.arrays import total
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.linear import evenly_shared
from .bisector import AngleBisector


@dataclass(frozen=True)
class IMTLG:
    """The combination of the gradients, weights adding up to 1, whose projections on all of them are equal.

    With unit gradients u_i, ``d . u_i`` is the same for all i and ``sum_i w_i = 1``; (m, m) -> (m,). That is the
    direction of `AngleBisector` at another length: ``w = a / sum(a)`` with a the weights of that. For two losses
    ``w_i = (1/|g_i|) / (1/|g_1| + 1/|g_2|)``.

    **It can point uphill.** Weights of either sign may add up to a negative number, and making them add up to 1 then
    turns the direction round: with more than two losses the common projection can be negative, and every loss rises.
    It happens when norms and angles differ enough that the bisector needs a negative weight on the smallest gradient.
    `AngleBisector` and `ConFIG` have the same direction without the turn. Where the weights add up to 0 (within
    rounding errors) no multiple of them adds up to 1; they are then all 0.

    Linearly dependent gradients: weights that add up to 1 and have equal projections are not unique, nor is the length.
    Those are taken whose ``w_i |g_i|`` are nearest to equal: of parallel gradients each adds as much.

    Opposed gradients, and others to which no direction makes equal acute angles: all weights are 0. A loss whose
    gradient is exactly zero is left out.

    Example:
        >>> import numpy as np
        >>> IMTLG()(np.array([[1.0, -0.5], [-0.5, 9.0]]))
        array([0.75, 0.25])

    Reference:
        Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang. Towards Impartial Multi-task Learning. ICLR 2021, OpenReview
        IMPnRXEWpvr, the closed form of IMTL-G.

    Deviations:
        The linear system is that of the correlations, solved by pivoted conjugate directions, so that dependent
        gradients and norms of any ratio are no obstacle; the authors invert a matrix of the gradients themselves.
        Where no direction has equal projections other than 0, the direction is 0.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        active = xp.astype(inverse_norm > 0, gram.dtype)
        weights = AngleBisector()(gram)
        if gram.shape[-1] > 2:
            # of dependent gradients the bisector's coefficients are not unique, and neither is the sum of the weights
            a = weights / xp.where(inverse_norm > 0, inverse_norm, 1)
            even = evenly_shared(correlations(gram, inverse_norm), active, a)
            weights = xp.where(xp.any(weights != 0), even, 0) * inverse_norm
        sum_of_all = total(weights)
        rounding = 16 * gram.shape[-1] * xp.finfo(gram.dtype).eps * total(xp.abs(weights))
        some = xp.abs(sum_of_all) > rounding
        return xp.where(some, weights / xp.where(some, sum_of_all, 1), 0)
