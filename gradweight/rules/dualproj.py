"""DualProj: the mean gradient, moved as little as it takes to conflict with none."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import Preference, check_nonnegative, preferred
from ._shares import has_gradient
from ._solvers.cone import freed_of_conflicts
from ._solvers.correlations import correlations, inverse_norms


@dataclass(frozen=True)
class DualProj:
    """The direction nearest to the mean gradient among those that conflict with none.

    With ``t = sum_i preference_i g_i``, ``d = argmin |d - t|^2`` over ``<d, g_i> >= 0`` for all i; (m, m) -> (m,).
    In weights, ``w = preference + v`` with v the minimiser of ``|t + sum_j v_j g_j|^2`` over ``v >= 0``. For two
    losses: the mean, or where it conflicts with one of them, the mean less its projection on that one.

    The direction never conflicts. At a Pareto stationary point all weights are 0; and also where what is left of t
    is so much smaller than what was taken away (1e-7 at float64) that its cosines are rounding errors, as when a
    gradient 1e10 times the others opposes one of them. A loss whose gradient is exactly zero is left out.

    Args:
        preference: name -> how much a loss counts, >= 0 and finite; None: equally, adding up to 1.

    Raises:
        ValueError: a preference out of its range; a loss without one; no `names` to look it up by.

    Example:
        >>> import numpy as np
        >>> DualProj()(np.array([[1.0, -2.0], [-2.0, 9.0]]))       # the mean has <d, g_1> = -1/2 before
        array([1. , 0.5])

    Reference:
        Lopez-Paz, Ranzato. Gradient Episodic Memory for Continual Learning. NeurIPS 2017, arXiv:1706.08840,
        equation 11, with the mean gradient in the place of the current task's, as in Quinton, Rey. Jacobian Descent
        for Multi-Objective Optimization. arXiv:2406.16232.

    Deviations:
        The quadratic program is solved on correlations and exactly, without the authors' margin and without
        regularisation: a closed form for two losses, every face tried for up to 8, an active-set method beyond
        (`_solvers.quadratic`, with its bound).
    """

    faster_on_numpy_from: ClassVar[int] = 1

    preference: Preference = field(default=None, hash=False)

    def __post_init__(self) -> None:
        check_nonnegative("DualProj", "preferences", self.preference)

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        preference = preferred("DualProj", self.preference, has_gradient(gram), names)
        inverse_norm = inverse_norms(gram)
        active = inverse_norm > 0
        cosine = correlations(gram, inverse_norm)
        # t in coordinates along the unit gradients, the largest of them 1
        length = xp.where(active, preference / xp.where(active, inverse_norm, 1), 0)
        largest = xp.max(length)
        unit = xp.where(largest > 0, largest, 1)
        target = (length / unit)[None, :]
        y, stands_out = freed_of_conflicts(cosine, target)
        y = xp.where(stands_out[:, None], y, 0)
        return y[0, :] * (inverse_norm * unit)
