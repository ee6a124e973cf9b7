"""Nash-MTL: the step as the Nash solution of a bargaining game between the losses."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.fairness import fair_coordinates
from ._solvers.rounding import opposed


@dataclass(frozen=True)
class NashMTL:
    """The direction in a ball that maximises the product of what each loss gains.

    ``d = argmax sum_i log <d, g_i>`` has weights w > 0 with ``G w = 1/w`` element by element; (m, m) -> (m,). With
    y_i = w_i |g_i| and C the correlations the equation reads ``C y = 1/y``: multiplying a loss by a constant
    changes nothing, and the direction has the length ``sqrt(m)`` whatever the gradients. For two losses
    ``w_i = 1/(|g_i| sqrt(1 + cos))``, the angle bisector.

    The solution exists, and is unique, unless 0 is a convex combination of the gradients (opposed ones, for example),
    where the point is Pareto stationary. All weights are then 0; likewise where the y that would be needed are above
    about 1e7 (at float64), whose direction is rounding error. A loss whose gradient is exactly zero is left out.

    The equation holds to ``max(1e-8, 10 eps y_i sum_j y_j)``, relative; the second is what rounding leaves certain of
    it, and above the first only for gradients that are within 1e-3 of being opposed.

    Example:
        >>> import numpy as np
        >>> NashMTL()(np.array([[4.0, 0.0], [0.0, 25.0]]))
        array([0.5, 0.2])

    Reference:
        Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya. Multi-Task Learning as a Bargaining Game.
        ICML 2022, arXiv:2202.01017, Algorithm 1.

    Deviations:
        The equation is solved by Newton's method instead of a sequence of twenty convex programs that stops at a
        residual of 1e-3. The authors' code multiplies the weights by the square root of the Frobenius norm of G and
        then clips the direction at length 1, and it can keep weights for several steps: give the base optimizer the
        learning rate you want, clip with torch if you want, and compute weights every step.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        cosine = correlations(gram, inverse_norm)
        if gram.shape[-1] == 2:
            # 1 where the other gradient is zero, as its row of cosines is
            nothing = opposed(cosine[0, 1])
            return xp.where(nothing, 0, inverse_norm / xp.sqrt(xp.where(nothing, 1, 1 + cosine[0, 1])))
        return fair_coordinates(cosine, 0 * inverse_norm + 1, beta=1) * inverse_norm
