"""Krum: follow the gradients that lie closest to the others, so that a few corrupt ones do no harm."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import check_whole
from ._shares import has_gradient
from ._solvers.arrays import at_least, at_most, like


@dataclass(frozen=True)
class Krum:
    """The mean of the ``select`` gradients with the smallest sum of squared distances to their nearest neighbours.

    ``score_i = sum of the n - byzantine - 2 smallest |g_i - g_j|^2, j != i``, where
    ``|g_i - g_j|^2 = G_ii + G_jj - 2 G_ij`` and n counts the losses whose gradient is not exactly zero;
    ``w_i = 1/select`` for the lowest scores, else 0; (m, m) -> (m,). At least one neighbour is always looked at, and
    where fewer than ``select`` losses have a gradient, all of them are followed.

    Equal scores share: two gradients that are each other's only neighbour always tie, and which of them comes first
    in the list should not decide.

    Args:
        byzantine: how many gradients may be corrupt, >= 0.
        select: how many to follow, >= 1; above 1 this is Multi-Krum.

    Raises:
        ValueError: an argument out of its range, or fewer than ``byzantine + 3`` losses, or than ``select``.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[1.0, 0.0], [1.0, 0.2], [1.1, 0.1], [-90.0, 40.0]])
        >>> Krum(byzantine=1, select=3)(rows @ rows.T).round(3)
        array([0.333, 0.333, 0.333, 0.   ])

    Reference:
        Blanchard, El Mhamdi, Guerraoui, Stainer. Machine Learning with Adversaries: Byzantine Tolerant Gradient
        Descent. NeurIPS 2017, arXiv:1703.02757. Ties go to the lowest index there.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    byzantine: int = 1
    select: int = 1

    def __post_init__(self) -> None:
        check_whole("Krum", "byzantine", self.byzantine, 0)
        check_whole("Krum", "select", self.select, 1)

    def __call__(self, gram: Array, /) -> Array:
        xp = array_namespace(gram)
        m = gram.shape[-1]
        least = max(self.byzantine + 3, self.select)
        if m < least:
            raise ValueError(f"Krum(byzantine={self.byzantine}, select={self.select}) needs {least} losses; got {m}")
        active = has_gradient(gram)
        count = xp.sum(active)
        squared = xp.linalg.diagonal(gram)
        # both triangles, since a Gram matrix off the GPU need not be symmetric to the last bit, and ties would break
        distances = squared[:, None] + squared[None, :] - (gram + xp.matrix_transpose(gram))
        index = xp.arange(m, **like(gram))
        neighbours = (active[:, None] * active[None, :] > 0) & (index[:, None] != index[None, :])
        nearest = xp.sort(xp.where(neighbours, at_least(distances, 0), math.inf), axis=-1)
        looked_at = at_least(xp.minimum(count - self.byzantine - 2, count - 1), 1)
        counted = (index < looked_at) & xp.isfinite(nearest)
        scores = xp.where(active > 0, xp.sum(xp.where(counted, nearest, 0), axis=-1), math.inf)

        better = xp.sum(xp.astype(scores[None, :] < scores[:, None], gram.dtype), axis=-1)
        equal = xp.sum(xp.astype(scores[None, :] == scores[:, None], gram.dtype) * active, axis=-1)
        places = at_most(count, self.select)
        share = at_most(at_least((places - better) / at_least(equal, 1), 0), 1) * active
        return share / at_least(places, 1)
