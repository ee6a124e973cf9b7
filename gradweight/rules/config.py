"""ConFIG: the direction that makes the same angle with every gradient, as long as the gradients add up to along it."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._solvers.arrays import at_least, matvec
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.eigen import eigh
from ._solvers.rounding import opposed, resolved_eigenvalues, rounding_of


@dataclass(frozen=True)
class ConFIG:
    """The direction with equal cosines to all gradients, of the length of their summed projections on it.

    With unit gradients u_i in the rows of U, C = U U' their correlations and ``v = U^+ 1 = sum_i (C^+ 1)_i u_i``,
    ``d = (sum_i g_i . v) v / |v|^2``; (m, m) -> (m,). Where the gradients are linearly independent ``u_i . v = 1``
    for all i: every loss falls at the same rate relative to its gradient norm. Where they are not, v is the direction
    whose ``u_i . v`` are nearest to 1 in the least-squares sense, and may conflict. For two losses
    ``w_i = (|g_1| + |g_2|) / (2 |g_i|)``, the angle bisector, of length ``(|g_1| + |g_2|) cos(angle/2)``.

    Exactly opposed gradients: the direction is 0 for two losses; among more, their part of v is 0 and the others
    decide. Where nothing is left of v, or of the gradients' sum along it, but rounding errors all weights are 0. A loss
    whose gradient is exactly zero is left out.

    Example:
        >>> import numpy as np
        >>> ConFIG()(np.array([[4.0, -1.0], [-1.0, 16.0]]))
        array([1.5 , 0.75])

    Reference:
        Liu, Chu, Thuerey. ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks. ICLR 2025,
        arXiv:2408.11104, equation 2.

    Deviations:
        The pseudo-inverse is that of the correlations, from their eigenvalues (`_solvers.eigen`); those below 4 m^2 eps
        count as 0, which are angles of 1e-7 between gradients at float64 where the authors' code tells angles of 1e-15.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        active = inverse_norm > 0
        norm = xp.where(active, 1 / xp.where(active, inverse_norm, 1), 0)
        cosine = correlations(gram, inverse_norm)
        if gram.shape[-1] == 2:
            # a single loss that is left keeps weight 1
            length = xp.sum(norm) / at_least(xp.sum(xp.astype(active, gram.dtype)), 1)
            return xp.where(opposed(cosine[0, 1]), 0, inverse_norm * length)
        ones = xp.astype(active, gram.dtype)
        eigenvalues, vectors = eigh(cosine)
        kept = resolved_eigenvalues(eigenvalues, vectors, ones)
        inverse = xp.where(kept, 1 / xp.where(kept, eigenvalues, 1), 0)
        sums = xp.sum(vectors * ones[:, None], axis=0)
        y = xp.sum(vectors * (inverse * sums), axis=-1) * ones
        alignment = matvec(cosine, y)
        squared = xp.sum(y * alignment)
        # the sums of eigenvectors that cancel leave rounding errors, of which a long step would be made
        rounding = (16 * gram.shape[-1] * xp.finfo(gram.dtype).eps) ** 2 * xp.sum(inverse)
        some = squared > rounding
        along = xp.sum(norm * alignment)
        # gradients that add up to nothing leave rounding errors too, and a length of either sign
        some = some & (xp.abs(along) > rounding_of(cosine, y) * xp.sum(norm))
        length = xp.where(some, along / xp.where(some, squared, 1), 0)
        return y * inverse_norm * length
