"""The angle bisector: Theorem 2, case 1, of Adaptive Weighted Discriminator, for any number of losses."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.linear import shortest_affine
from ._solvers.rounding import opposed, stands_out


@dataclass(frozen=True)
class AngleBisector:
    """The direction that makes the same angle with every gradient.

    For two losses ``w_i = 1/|g_i|``: the bisector of the two gradients, at half their angle from each. For m
    losses, with unit gradients ``u_i = g_i/|g_i|``, the direction is the shortest vector ``d = sum_i a_i u_i``
    with ``sum_i a_i = m``, and ``w_i = a_i/|g_i|``; (m, m) -> (m,). The optimality condition of that problem is
    ``u_i . d = |d|^2 / m`` for every i, the equal angles, and at m = 2 it gives ``a = (1, 1)``.

    The angle is never obtuse, so no loss rises to first order. **Weights can be negative and very large when m > 2**,
    where one gradient points so nearly between the others that only subtracting it makes the angles equal, at nearly
    90 degrees; `NashMTL` has positive weights and is the same direction at m = 2.

    Linearly dependent gradients: ``d`` is unique all the same, being the point of an affine set nearest to the
    origin, but the weights are not; of the redundant gradients those picked first by the pivoting carry the
    weight. Two unit gradients nearer than ``sqrt(m eps)`` (3e-8 radian at float64) count as one.

    When no direction makes an equal acute angle, ``d`` is zero: two gradients that are opposed, or more whose unit
    vectors have 0 among their affine combinations, such as any three in a plane. All weights are then 0, and so they
    are where rounding decides: where the cosine of the angle, ``|d|/m``, is not above ``2 sqrt(eps sum_i |a_i|)``, for
    a = (1, 1, 1) 5e-8 at float64 and 1.2e-3 at float32. A direction that is not zero conflicts with no gradient; where
    large a are needed to cancel, of gradients in a plane that nearly agree, rounding may decide that there is one.

    A loss whose gradient is exactly zero is left out; m is then the number of the others.

    Example:
        >>> import numpy as np
        >>> AngleBisector()(np.array([[4.0, -1.0], [-1.0, 25.0]]))
        array([0.5, 0.2])

    Reference:
        Zadorozhnyy, Cheng, Ye. Adaptive Weighted Discriminator for Training Generative Adversarial Networks.
        CVPR 2021, arXiv:2012.03149, Theorem 2, case 1. The theorem is for two losses; more are our extension.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        if gram.shape[-1] == 1:
            return inverse_norm
        if gram.shape[-1] == 2:
            return xp.where(opposed(gram[0, 1] * inverse_norm[0] * inverse_norm[1]), 0, inverse_norm)
        cosine = correlations(gram, inverse_norm)
        active = xp.astype(inverse_norm > 0, gram.dtype)
        a = shortest_affine(cosine, active)
        # d is the projection of the sum of the unit gradients, a = (1, ..., 1), at right angles to their differences
        some = stands_out(cosine, a[None, :], active[None, :])[0]
        return xp.where(some, a, 0) * inverse_norm
