"""PCD: the primary loss's gradient, moved as little as it takes to give every other loss its share of progress."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import by_name, check_range, check_table, position
from ._solvers.arrays import chosen, matvec
from ._solvers.cone import shortest_combination
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.quadratic import nonnegative_minimiser
from ._solvers.rounding import rounding_of


@dataclass(frozen=True)
class PCD:
    """Priority-constrained descent: one primary loss, and a guaranteed share of progress for the others.

    With ``s_i = 1 / sqrt <|g_i|^2>``, the root of a moving average, and ``h_i = s_i g_i``, ``d`` is the nearest to
    ``h_p`` with ``<d, h_j> >= tau_j |h_j|^2`` for every other loss j, scaled to the length of the primary's g_p;
    (m, m) -> (m,). In weights, ``d = h_p + sum_j v_j h_j`` with ``v >= 0``. Each other loss falls at least by the
    fraction tau of what a step along its own (normalised) gradient would gain it, to first order.

    Where the shares cannot all be had, because 0 is a convex combination of the others' gradients, there are none, and
    the direction is g_p. Where the primary's gradient is zero, or what is left of d is rounding error, all weights are
    0. A loss whose gradient is exactly zero is left out, and its average waits.

    Args:
        primary: name of the loss that comes first.
        tau: the shares, in (0, 1]: one for all, or name -> share.
        beta: decay of the averages of squared norms, in [0, 1); they are corrected for their start.

    Raises:
        ValueError: an argument out of its range; the step has no loss of the primary's name; a loss without a share.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[2.0, 0.0], [0.0, 1.0]])
        >>> rule, gram = PCD("main", tau=0.75), rows @ rows.T
        >>> weights, _ = rule.update(gram, rule.init(gram), names=("main", "other"))
        >>> (weights @ rows).round(4)                                   # (1, 0.75) at length 2
        array([1.6, 1.2])

    Reference:
        Not All Objectives Are Born Equal: Priority-Constrained Descent for Hierarchical Multi-Objective Optimization.
        TMLR 2026, arXiv:2606.29521.

    Deviations:
        The quadratic program is solved on correlations (`_solvers.quadratic`), without enumerating sets of constraints
        beyond 8 losses. No 1e-8 is added to the averages. tau = 0 is left out: for progress that is only not negative
        see `OrthogonalProjection` and `DualProj`.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    primary: str
    tau: float | Mapping[str, float] = field(default=0.02, hash=False)
    beta: float = 0.999

    def __post_init__(self) -> None:
        if isinstance(self.tau, Mapping):
            check_table("PCD", "tau", self.tau)
            for name, value in self.tau.items():
                check_range("PCD", f"tau for {name!r}", value, 0, 1, open_low=True)
        else:
            check_range("PCD", "tau", self.tau, 0, 1, open_low=True)
        check_range("PCD", "beta", self.beta, 0, 1, below=True)

    def init(self, gram: Array) -> State:
        zero = 0 * array_namespace(gram).linalg.diagonal(gram)
        return {"squares": zero, "count": zero}

    def update(self, gram: Array, state: State, /, *, names: tuple[str, ...]) -> tuple[Array, State]:
        xp = array_namespace(gram)
        p = position("PCD", self.primary, names)
        inverse_norm = inverse_norms(gram)
        active = inverse_norm > 0
        squares = xp.where(active, self.beta * state["squares"] + xp.linalg.diagonal(gram), state["squares"])
        count = xp.where(active, self.beta * state["count"] + 1, state["count"])
        scale = xp.sqrt(xp.where(active, count / xp.where(active, squares, 1), 0))
        length = xp.where(active, scale / xp.where(active, inverse_norm, 1), 0)  # |h_i|
        cosine = correlations(gram, inverse_norm)

        others = [i for i in range(len(names)) if i != p]
        added = length[:0]
        if others:
            among = chosen(xp.matrix_transpose(chosen(cosine, others)), others)
            to_primary, wanted = chosen(cosine[:, p], others), self._shares(names, p, length)
            present = xp.linalg.diagonal(among)
            _, possible = shortest_combination(among, present)
            # in coordinates along unit gradients, of a size of 1
            linear = to_primary * length[p] - wanted * chosen(length, others)
            size = xp.max(xp.abs(linear))
            unit = xp.where(possible & (size > 0), size, 1)
            added = nonnegative_minimiser(among, (xp.where(possible, linear, 0) / unit)[None, :])[0, :] * unit
        y = xp.concat([added[:p], length[p : p + 1], added[p:]])
        squared = xp.sum(y * matvec(cosine, y))
        clear = (squared > rounding_of(cosine, y[None, :])[0] * xp.sum(xp.abs(y))) & active[p]
        norm = 1 / xp.where(active[p], inverse_norm[p], 1)
        factor = xp.where(clear, norm / xp.sqrt(xp.where(clear, squared, 1)), 0)
        return y * inverse_norm * factor, {"squares": squares, "count": count}

    def _shares(self, names: tuple[str, ...], p: int, like: Array) -> Array:
        xp = array_namespace(like)
        others = tuple(name for i, name in enumerate(names) if i != p)
        part = like[: len(others)]
        if isinstance(self.tau, Mapping):
            return by_name("PCD", "tau", self.tau, others, part, 0.0)
        return xp.zeros_like(part) + self.tau
