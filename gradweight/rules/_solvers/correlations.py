"""A Gram matrix as correlations and norms: what every solver works on, so that norms of any ratio do no harm."""

from __future__ import annotations

import numpy as np

from ...rule import Array, array_namespace
from .arrays import at_least, at_most, identity, is_numpy


def inverse_norms(gram: Array) -> Array:
    """1 / |g_i| for each gradient, and 0 where a gradient is exactly zero: (m, m) -> (m,).

    The zero leaves such a loss out of whatever it multiplies; 1 / 0 would bring inf and, times 0, NaN.
    """
    if is_numpy(gram) and (squared := gram.diagonal(axis1=-2, axis2=-1)).all():
        return 1 / np.sqrt(squared)
    xp = array_namespace(gram)
    squared = xp.linalg.diagonal(gram)
    nonzero = squared > 0
    return xp.where(nonzero, 1 / xp.sqrt(xp.where(nonzero, squared, 1)), 0)


def correlations(gram: Array, inverse_norm: Array) -> Array:
    """Cosines between the gradients, (m, m), zero in the rows and columns of zero gradients.

    Solving on these instead of on the Gram matrix is what keeps a rule right when norms differ a thousandfold.
    The diagonal is set to exactly 1: a squared norm that is a denormal number would not round to it.
    """
    if is_numpy(gram) and gram.ndim == 2:
        cosines = gram * inverse_norm[:, None]
        cosines *= inverse_norm
        np.minimum(cosines, 1, out=cosines)
        np.maximum(cosines, -1, out=cosines)
        cosines.ravel()[:: len(gram) + 1] = inverse_norm > 0
        return cosines
    xp = array_namespace(gram)
    cosines = at_most(at_least(gram * inverse_norm[..., :, None] * inverse_norm[..., None, :], -1), 1)
    return xp.where(identity(gram) > 0, xp.astype(inverse_norm > 0, gram.dtype)[..., None, :], cosines)
