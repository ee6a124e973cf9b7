"""Smooth Tchebycheff scalarisation: mostly the worst loss, so that any trade-off can be reached."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import by_name, check_nonnegative, check_positive, check_table
from ._shares import has_gradient, softmax
from ._solvers.arrays import at_least


@dataclass(frozen=True)
class SmoothTchebycheff:
    """The gradient of a soft maximum of the losses' weighted distances from what is ideal.

    ``f = mu log sum_i exp(p_i (L_i - z_i) / mu)``, whose gradient has the weights
    ``w_i = p_i exp(p_i (L_i - z_i) / mu) / sum_j exp(p_j (L_j - z_j) / mu)``; (m, m) -> (m,). Unlike a fixed sum,
    it has every Pareto optimal point, those on a concave front too, as the minimum for some preference p.

    Needs no gradients, so that a step is one backward: see `gradweight.rule`. Given a Gram matrix all the same, it
    leaves a loss whose gradient is exactly zero out of the maximum.

    Args:
        preference: name -> p_i >= 0; None: 1/n each, n the number of losses (with a gradient, where that is known).
        mu: softness, > 0, in units of the losses: the smaller, the closer to the maximum.
        ideal: name -> z_i, the best value that the loss can reach; None: 0 each.

    Signals:
        losses: supplied automatically.

    Raises:
        ValueError: an argument out of its range; a loss without a preference or an ideal.

    Example:
        >>> import numpy as np
        >>> SmoothTchebycheff({"a": 1.0, "b": 1.0})(np.eye(2), names=("a", "b"), losses=np.log([1.0, 3.0]))
        array([0.25, 0.75])

    Reference:
        Lin, Zhang, Yang, Liu, Wang, Zhang. Smooth Tchebycheff Scalarization for Multi-Objective Optimization.
        ICML 2024, arXiv:2402.19078, Eq. 9.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    needs_gradients: ClassVar[bool] = False
    preference: Mapping[str, float] | None = field(default=None, hash=False)
    mu: float = 1.0
    ideal: Mapping[str, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        check_nonnegative("SmoothTchebycheff", "preferences", self.preference)
        check_table("SmoothTchebycheff", "ideal", self.ideal)
        check_positive("SmoothTchebycheff", "mu", self.mu)

    def __call__(self, gram: Array, /, *, losses: Array, names: tuple[str, ...] | None = None) -> Array:
        xp = array_namespace(gram)
        active = has_gradient(gram)
        p = by_name("SmoothTchebycheff", "preference", self.preference, names, active, 1.0)
        if self.preference is None:
            p = p / at_least(xp.sum(active), 1)
        z = by_name("SmoothTchebycheff", "ideal", self.ideal, names, active, 0.0)
        return p * softmax(p * (losses - z) / self.mu, active)
