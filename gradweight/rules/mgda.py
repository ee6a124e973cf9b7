"""MGDA: the shortest convex combination of the gradients."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._solvers.cone import shortest_combination
from ._solvers.correlations import correlations, inverse_norms


@dataclass(frozen=True)
class MGDA:
    """The shortest vector among all convex combinations of the gradients.

    ``w = argmin |sum_i w_i g_i|^2`` over ``w >= 0, sum_i w_i = 1``; (m, m) -> (m,). The direction lowers every loss
    by at least ``|d|^2`` to first order. For two losses ``w_1 = <g_2, g_2 - g_1> / |g_1 - g_2|^2`` in [0, 1].

    Weights are those of the gradients as they are: the smallest gradient dominates, and where it makes the larger
    ones agree no worse than it does with itself, it is the direction.

    Where 0 is a convex combination of the gradients (opposed ones, for example) there is no such direction, the
    point is Pareto stationary, and all weights are 0; likewise where the shortest vector is a rounding error of the
    gradients that it is left of (length below about 1e-7 of theirs at float64). Linearly dependent gradients: ``d``
    is unique, the weights are not. A loss whose gradient is exactly zero is left out.

    Example:
        >>> import numpy as np
        >>> MGDA()(np.array([[1.0, 0.0], [0.0, 4.0]]))
        array([0.8, 0.2])

    Reference:
        Désidéri. Multiple-gradient descent algorithm (MGDA) for multiobjective optimization. Comptes Rendus
        Mathématique 2012. Sener, Koltun. Multi-Task Learning as Multi-Objective Optimization. NeurIPS 2018,
        arXiv:1810.04650, equations 3 and 4 and Algorithm 2.

    Deviations:
        Exact instead of Frank-Wolfe iterations, which stop at a few digits; and see above for weights of 0. A closed
        form for two losses, every face tried for up to 8, an active-set method beyond (`_solvers.quadratic`, with its
        bound).
    """

    faster_on_numpy_from: ClassVar[int] = 1

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        largest = xp.max(inverse_norm)
        # 1/|g| in units of the smallest gradient, so that all that follows is of the size of 1
        n = inverse_norm / xp.where(largest > 0, largest, 1)
        cosine = correlations(gram, inverse_norm)
        z, stands_out = shortest_combination(cosine, n)
        z = xp.where(stands_out, z, 0)
        total = xp.sum(z * n)
        return z * n / xp.where(total > 0, total, 1)
