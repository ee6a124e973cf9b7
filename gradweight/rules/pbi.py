"""PBI: along a chosen ray of losses as far down as possible, and a penalty for leaving it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import by_name, check_nonnegative, check_range, check_table
from ._shares import has_gradient
from ._solvers.arrays import total


@dataclass(frozen=True)
class PBI:
    """Penalty boundary intersection: the gradient of the distance along a ray plus theta times that from it.

    With the unit vector u of the ray and ``F = L - z``: ``f = p + theta q``, ``p = <u, F>``, ``q = |F - p u|``, whose
    gradient has the weights ``w = u + theta (F - p u) / q``; (m, m) -> (m,). A loss that is far below the ray has a
    negative weight where theta is large: it is raised. On the ray the weights are u.

    Needs no gradients, so that a step is one backward: see `gradweight.rule`. Given a Gram matrix all the same, it
    leaves a loss whose gradient is exactly zero out of the ray and the distances.

    Args:
        ray: name -> the size that the loss is to have in proportion to the others, >= 0; None: all alike.
        theta: the penalty, >= 0.
        ideal: name -> z_i, the best value that the loss can reach, where the ray starts; None: 0 each.

    Signals:
        losses: supplied automatically.

    Raises:
        ValueError: an argument out of its range; a loss that is not in ``ray`` or ``ideal``.

    Example:
        >>> import numpy as np
        >>> PBI({"a": 3.0, "b": 4.0}, theta=1.0)(np.eye(2), names=("a", "b"), losses=np.array([5.0, 0.0])).round(4)
        array([1.4, 0.2])

    Reference:
        Zhang, Li. MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition. IEEE Transactions on
        Evolutionary Computation 11(6), 2007, section II.C. The default of theta is the paper's.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    ray: Mapping[str, float] | None = field(default=None, hash=False)
    theta: float = 5.0
    ideal: Mapping[str, float] | None = field(default=None, hash=False)
    needs_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_nonnegative("PBI", "ray", self.ray)
        check_range("PBI", "theta", self.theta, 0)
        check_table("PBI", "ideal", self.ideal)

    def __call__(self, gram: Array, /, *, losses: Array, names: tuple[str, ...] | None = None) -> Array:
        xp = array_namespace(gram)
        active = has_gradient(gram)
        ray = active * by_name("PBI", "ray", self.ray, names, active, 1.0)
        length = xp.sqrt(total(ray * ray))
        u = ray / xp.where(length > 0, length, 1)
        f = xp.where(active > 0, losses - by_name("PBI", "ideal", self.ideal, names, active, 0.0), 0)
        beside = f - total(u * f) * u
        # in units of the largest, whose square cannot overflow
        size = xp.max(xp.abs(beside))
        scaled = beside / xp.where(size == 0, 1, size)
        q = xp.sqrt(xp.where(size == 0, 1, total(scaled * scaled)))
        # on the ray but for rounding errors there is no direction to it
        off = xp.logical_not(size <= 8 * xp.finfo(gram.dtype).eps * xp.max(xp.abs(f)))
        return u + self.theta * xp.where(off, scaled / q, 0)
