"""COSMOS's scalarisation: a weighted sum, and a reward for losses in the proportions of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import by_name, check_nonnegative, check_range
from ._shares import has_gradient
from ._solvers.arrays import at_least, total


@dataclass(frozen=True)
class COSMOS:
    """The gradient of a weighted sum less the cosine between the losses and their weights.

    ``f = <p, L> - strength cos(p, L)``, whose gradient has the weights ``w = p - strength (p / (|p| |L|) - cos(p, L)
    L / |L|^2)``; (m, m) -> (m,). Losses are drawn to the ray of p: the larger p_i, the larger L_i is to be beside the
    others, and the more weight it has all the same. Where the losses are small beside strength, so that the cosine
    counts, weights may be negative.

    Needs no gradients, so that a step is one backward: see `gradweight.rule`. Given a Gram matrix all the same, it
    leaves out a loss whose gradient is exactly zero.

    Args:
        preference: name -> p_i >= 0; None: 1/n each, n the number of losses (with a gradient, where that is known).
        strength: of the cosine, >= 0, in units of the losses.

    Signals:
        losses: supplied automatically.

    Raises:
        ValueError: an argument out of its range; a loss without a preference.

    Example:
        >>> import numpy as np
        >>> rule = COSMOS({"a": 1.0, "b": 1.0}, strength=1.0)
        >>> rule(np.eye(2), names=("a", "b"), losses=np.array([1.0, 0.0])).round(4)
        array([1.    , 0.2929])

    Reference:
        Ruchte, Grabocka. Scalable Pareto Front Approximation for Deep Multi-Objective Learning. ICDM 2021,
        arXiv:2103.13392, the objective. There p is drawn for each batch and given to the network, which learns the
        whole front; here it is fixed, and the network learns one point.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    needs_gradients: ClassVar[bool] = False
    preference: Mapping[str, float] | None = field(default=None, hash=False)
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_nonnegative("COSMOS", "preferences", self.preference)
        check_range("COSMOS", "strength", self.strength, 0)

    def __call__(self, gram: Array, /, *, losses: Array, names: tuple[str, ...] | None = None) -> Array:
        xp = array_namespace(gram)
        active = has_gradient(gram)
        p = active * by_name("COSMOS", "preference", self.preference, names, active, 1.0)
        if self.preference is None:
            p = p / at_least(xp.sum(active), 1)
        values = xp.where(active > 0, losses, 0)
        sizes = xp.sqrt(total(p * p)), xp.sqrt(total(values * values))
        ray, direction = (x / xp.where(size == 0, 1, size) for x, size in zip((p, values), sizes, strict=True))
        slope = (ray - total(ray * direction) * direction) / xp.where(sizes[1] == 0, 1, sizes[1])
        return active * (p - self.strength * xp.where(sizes[1] == 0, 0, slope))
