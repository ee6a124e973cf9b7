"""Assisting the Adversary: how much of the AdvAs penalty to add to a generator's own loss."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import position
from ._solvers.arrays import at_least, at_most, counting


@dataclass(frozen=True)
class AdvAs:
    """Weight 1 for the generator's own losses, and for the AdvAs penalty a weight that keeps it from dominating.

    ``lambda = min(1, |g_orig| / |g_AdvAs|)`` in [0, 1], where ``g_orig`` is the gradient of the sum of all the
    other losses and ``g_AdvAs`` that of the penalty, the squared norm of the adversary's parameter gradient;
    (m, m) -> (m,).

    A loss whose gradient is exactly zero is left out; if all but the penalty are, lambda is 1. Exactly opposed
    gradients with the penalty the longer one cancel to a zero direction, as Eq. 11 has it.

    Args:
        penalty: name of the penalty's loss; without `names` the last row is the penalty.
        every_step: False for a penalty that is due on every n-th step only: a step without it has weight 1 throughout.

    Raises:
        ValueError: a step without the penalty, unless it comes and goes.

    Example:
        >>> import numpy as np
        >>> AdvAs()(np.diag([9.0, 36.0]))
        array([1. , 0.5])

    Reference:
        Munk, Harvey, Wood. Assisting the Adversary to Improve GAN Training. ICLR 2021 submission,
        arXiv:2010.01274, Eq. 11.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    penalty: str = "advas"
    every_step: bool = True

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        m = gram.shape[-1]
        squared = xp.linalg.diagonal(gram)
        active = xp.astype(squared > 0, gram.dtype)
        p = m - 1 if names is None else position("AdvAs", self.penalty, names, every_step=self.every_step)
        if p is None:
            return active
        if m == 1:
            return active
        others = xp.astype(counting(gram, m) != p, gram.dtype)
        # |sum of the others|^2; rounding can leave it just below zero where they cancel
        original = at_least(xp.sum(gram * others[:, None] * others), 0)
        original_is_zero = xp.sum(active * others) == 0
        ratio = xp.sqrt(original / xp.where(squared[p] > 0, squared[p], 1))
        weight = xp.where(original_is_zero, 1 + 0 * ratio, at_most(ratio, 1)) * active[p]
        return xp.stack([weight if i == p else active[i] for i in range(m)])
