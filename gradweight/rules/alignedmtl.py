"""Aligned-MTL: gradients turned into orthogonal ones of equal length, then the mean."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._solvers.arrays import at_least
from ._solvers.correlations import inverse_norms
from ._solvers.eigen import eigh
from ._solvers.rounding import resolved_eigenvalues, rounding_of


@dataclass(frozen=True)
class AlignedMTL:
    """The mean of the orthogonal gradients nearest to the given ones, all as long as the weakest direction among them.

    With the eigenvalues and eigenvectors ``G = V diag(lambda) V'``, r the rank and lambda_r the smallest eigenvalue
    that is not zero, ``w = sqrt(lambda_r) V diag(lambda**-1/2) V' 1/m``; (m, m) -> (m,), sums over the r eigenvalues.
    The matrix of gradients that the weights stand for has condition number 1: its principal components all count the
    same.

    Follows no loss's scale: the length of the direction is that of the weakest principal component, which a single
    small gradient, or two nearly parallel ones, make small. A gradient and its exact opposite get weight 0, as their
    mean component is; nothing is said about conflicts in general when r < m. Eigenvalues within rounding errors of 0
    count as 0: entry by entry ``4 m eps |g_i| |g_j|``, so that a gradient is not lost for being small. Where the mean
    gradient has no component that stands out of rounding errors, as where the gradients add up to 0, all weights are 0.
    A loss whose gradient is exactly zero is left out.

    Example:
        >>> import numpy as np
        >>> AlignedMTL()(np.array([[4.0, 0.0], [0.0, 1.0]]))
        array([0.25, 0.5 ])

    Reference:
        Senushkin, Patakin, Kuznetsov, Konushin. Independent Component Alignment for Multi-Task Learning. CVPR 2023,
        arXiv:2305.19000, Algorithm 1.

    Deviations:
        Zero eigenvalues are told from small ones by the rounding errors of their own entries instead of by comparison
        with the largest eigenvalue, which drops every gradient 1e-8 times shorter than the longest. Eigenvalues come
        from Jacobi's method (`_solvers.eigen`), about 550 array operations for m = 4 and 4,500 for m = 16, because a
        library's routine waits for the device.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        squared = xp.linalg.diagonal(gram)
        active = xp.astype(inverse_norms(gram) > 0, gram.dtype)
        largest = xp.max(squared)
        scaled = gram / xp.where(largest > 0, largest, 1)
        norms = xp.sqrt(xp.linalg.diagonal(scaled))
        eigenvalues, vectors = eigh(scaled)
        kept = resolved_eigenvalues(eigenvalues, vectors, norms)
        smallest = xp.min(xp.where(kept, eigenvalues, xp.inf))
        balance = xp.where(kept, xp.sqrt(xp.where(kept, smallest, 1) / xp.where(kept, eigenvalues, 1)), 0)
        mean = active / at_least(xp.sum(active), 1)
        components = xp.sum(vectors * mean[:, None], axis=0)
        # lambda_k times component k is the inner product of principal gradient k with the mean gradient
        rounding = rounding_of(gram, xp.matrix_transpose(vectors * norms[:, None])) * xp.sum(mean * norms)
        some = xp.any(kept & (eigenvalues * xp.abs(components) > rounding))
        return xp.where(some, xp.sum(vectors * (balance * components), axis=-1) * active, 0)
