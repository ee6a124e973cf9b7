"""FairGrad: the step that shares its gains alpha-fairly among the losses."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import check_range
from ._shares import has_gradient
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.fairness import fair_coordinates
from .nash import NashMTL


@dataclass(frozen=True)
class FairGrad:
    """The direction in a ball that maximises the alpha-fair utility of what each loss gains.

    ``d = argmax sum_i <d, g_i>**(1 - alpha) / (1 - alpha)`` (the logarithm for alpha = 1) has weights w > 0 with
    ``G w = w**(-1/alpha)`` element by element; (m, m) -> (m,). Gains are equal in the limit of large alpha, their sum
    counts for small alpha; alpha = 1 is Nash-MTL. At alpha = 0 only the sum does, which no single gain can forbid: all
    weights are 1, as those of `Sum`. In the limit of small alpha no gain may be negative, which is not the same: it is
    the sum with as little as possible added that none is. The direction's length goes with the gradients' to the power
    ``(1 - alpha)/(1 + alpha)``: at alpha = 1 it is ``sqrt(m)``, above that it *shrinks* where gradients grow.

    The solution exists, and is unique, unless 0 is a convex combination of the gradients (opposed ones, for example),
    where the point is Pareto stationary. All weights are then 0; likewise where the direction would be rounding error
    of what cancels in it (below about 1e-7 of it, at float64). A loss whose gradient is exactly zero is left out.

    Args:
        alpha: 0, or between 0.05 and 10. The equation holds to 1e-8, relative, or to what rounding in
            ``sum_j w_j G_ij`` leaves certain of it, for gradients whose norms are within a factor of 1e6. Newton's
            method takes 30 steps below 1 (40 below 0.1) and 20 + 10 alpha above. For two losses it is one equation for
            the ratio of the weights, closed at alpha = 1 and solved by 6 steps otherwise, to rounding errors
            (`_solvers.fairness`).

    Raises:
        ValueError: alpha outside of its range.

    Example:
        >>> import numpy as np
        >>> FairGrad(alpha=0.5)(np.array([[8.0, 0.0], [0.0, 27.0]]))    # w**3 = 1/8, 1/27
        array([0.5       , 0.33333333])

    Reference:
        Ban, Ji. Fair Resource Allocation in Multi-Task Learning. ICML 2024, arXiv:2402.15638, equation 4.

    Deviations:
        The equation is solved on correlations by Newton's method on a convex function instead of by a bounded
        least-squares solver on the host.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_range("FairGrad", "alpha", self.alpha, 0, 10)
        if 0 < self.alpha < 0.05:
            # w**(1/alpha) has no digits left in floating point
            raise ValueError(f"FairGrad needs alpha 0 (the sum), or in [0.05, 10]; got {self.alpha}")

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        if self.alpha == 0:
            return has_gradient(gram)
        if self.alpha == 1:
            return NashMTL()(gram)
        xp = array_namespace(gram)
        beta = 1 / self.alpha
        inverse_norm = inverse_norms(gram)
        active = inverse_norm > 0
        # with w_i = y_i / |g_i| the equation is C y = (y / r)**-beta, r_i = |g_i|**(1 - alpha); only ratios of r to the
        # largest are formed, and the power of that one is multiplied back in the end
        norm = 1 / xp.where(active, inverse_norm, 1)
        extreme = xp.max(xp.where(active, norm, 0)) if beta > 1 else xp.min(xp.where(active, norm, xp.inf))
        extreme = xp.where(xp.any(active), extreme, 1)
        root = xp.where(active, norm / extreme, 1) ** (1 - self.alpha)
        y = fair_coordinates(correlations(gram, inverse_norm), root, beta)
        return y * inverse_norm * extreme ** ((beta - 1) / (beta + 1))
