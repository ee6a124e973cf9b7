"""UPGrad: each gradient freed of its conflicts, then the mean."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import Preference, check_nonnegative, preferred
from ._shares import has_gradient
from ._solvers.arrays import identity
from ._solvers.cone import freed_of_conflicts
from ._solvers.correlations import correlations, inverse_norms


@dataclass(frozen=True)
class UPGrad:
    """The mean of the gradients after each has been projected on the directions that conflict with none.

    With K = {d : <d, g_i> >= 0 for all i} and p_i the point of K that is nearest to ``g_i``,
    ``d = sum_i preference_i p_i``; (m, m) -> (m,). In weights, ``p_i = g_i + sum_j v_j g_j`` with v the minimiser of
    ``|g_i + sum_j v_j g_j|^2`` over ``v >= 0``. Without conflicts it is the (weighted) mean.

    The direction never conflicts with any gradient, and its length is proportional to that of each. For two losses in
    conflict each gradient loses its projection on the other. Where a gradient has no part that conflicts with none
    (one of an opposed pair, say), or none that stands out of rounding errors (1e-7 of its length), its p_i is 0; at a
    Pareto stationary point all weights are 0. A loss whose gradient is exactly zero is left out.

    Args:
        preference: name -> how much a loss counts, >= 0 and finite; None: equally, adding up to 1.

    Raises:
        ValueError: a preference out of its range; a loss without one; no `names` to look it up by.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
        >>> (UPGrad()(rows @ rows.T) @ rows).round(4)
        array([0.2924, 1.9006, 1.9006])

    Reference:
        Quinton, Rey. Jacobian Descent for Multi-Objective Optimization. arXiv:2406.16232, the aggregator
        A_UPGrad and the Proposition on its weights.

    Deviations:
        The quadratic programs are solved on correlations and exactly: a closed form for two losses, every face tried
        for up to 8, an active-set method beyond (`_solvers.quadratic`, with its bound). The authors' code adds
        1e-4 to the diagonal of the Gram matrix instead, divided by its trace, and so returns conflicting directions
        once norms differ thirtyfold.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    preference: Preference = field(default=None, hash=False)

    def __post_init__(self) -> None:
        check_nonnegative("UPGrad", "preferences", self.preference)

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        preference = preferred("UPGrad", self.preference, has_gradient(gram), names)
        inverse_norm = inverse_norms(gram)
        cosine = correlations(gram, inverse_norm)
        itself = identity(gram) * xp.linalg.diagonal(cosine)[:, None]
        # row i: p_i / |g_i| in coordinates along the unit gradients
        projections, stand_out = freed_of_conflicts(cosine, itself)
        projections = xp.where(stand_out[:, None], projections, 0)
        # |g_i| / |g_j|, formed before anything is multiplied by it so that neither norm can overflow
        active = inverse_norm > 0
        ratio = inverse_norm[None, :] / xp.where(active, inverse_norm, 1)[:, None]
        return xp.sum(preference[:, None] * projections * ratio, axis=0)
