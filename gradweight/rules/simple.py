"""Fixed weights: `Sum`, `Mean` and `Constant`, what people write by hand and what every method is held against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import by_name, check_table
from ._shares import has_gradient
from ._solvers.arrays import at_least


@dataclass(frozen=True)
class Sum:
    """Weight 1 for every loss: the plain gradient of the summed loss.

    ``w_i = 1``, (m, m) -> (m,), and 0 for a loss whose gradient is exactly zero, where it makes no difference.
    A wrapped optimizer with this rule takes the steps of the unwrapped one.

    Example:
        >>> import numpy as np
        >>> Sum()(np.array([[4.0, -1.0], [-1.0, 9.0]]))
        array([1., 1.])
    """

    faster_on_numpy_from: ClassVar[int] = 1

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        return has_gradient(gram)


@dataclass(frozen=True)
class Mean:
    """The average over the losses that have a gradient.

    ``w_i = 1/n`` for the n losses whose gradient is not exactly zero, else 0; (m, m) -> (m,). A loss that says
    nothing on this step (a hinge that is satisfied, say) does not shrink the others.

    Example:
        >>> import numpy as np
        >>> Mean()(np.diag([4.0, 9.0, 0.0]))
        array([0.5, 0.5, 0. ])
    """

    faster_on_numpy_from: ClassVar[int] = 1

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        active = has_gradient(gram)
        return active / at_least(xp.sum(active), 1)


@dataclass(frozen=True)
class Constant:
    """Weights chosen beforehand, by name: the hand-tuned sum.

    ``w_i = weights[names[i]]``, (m, m) -> (m,), and 0 for a loss whose gradient is exactly zero, where it makes
    no difference. A loss that is absent on this step needs no entry left out: only the names present are read.

    Args:
        weights: name -> weight, finite, of any sign.

    Raises:
        ValueError: a weight is not finite; a loss has no weight; the rule is called without `names`.

    Example:
        >>> import numpy as np
        >>> Constant({"data": 1.0, "pde": 0.1})(np.eye(2), names=("data", "pde"))
        array([1. , 0.1])
    """

    faster_on_numpy_from: ClassVar[int] = 1

    weights: Mapping[str, float] = field(hash=False)

    def __post_init__(self) -> None:
        check_table("Constant", "weights", self.weights, optional=False)

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        active = has_gradient(gram)
        return active * by_name("Constant", "weight", self.weights, names, active, 0.0)
