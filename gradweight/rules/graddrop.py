"""GradDrop: in each coordinate pick one sign at random and keep the gradients that have it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..rule import Array, array_namespace
from ._arguments import by_name, check_nonnegative, check_whole
from ._solvers.draws import uniforms


@dataclass(frozen=True)
class GradDrop:
    """Gradient sign dropout: gradients that disagree about the sign of a coordinate are not averaged there.

    In each coordinate, with the sign purity ``P = (1 + sum_i g_i / sum_i |g_i|) / 2`` and U uniform on (0, 1): the
    positive parts are kept if ``P > U``, the negative ones if ``P < U``. The direction is
    ``sum_i (l_i + (1 - l_i) M_i) g_i``, with M_i the 0/1 mask of what is kept and l_i the leak; (m, ...) -> (...).
    Its expectation points where the sum does, coordinate by coordinate.

    Draws are a function of the seed, the step and the number of the coordinate among those of all parameters.

    Args:
        leak: name -> how much of that loss passes in any case, in [0, 1]; None: nothing of any.
        seed: of the draws.

    Signals:
        step: number of the step, supplied automatically.
        offset: how many coordinates come before these, supplied automatically: every coordinate has its own draw, the
            same on every process, whichever part of the gradients that holds.

    Raises:
        ValueError: a leak out of its range; a loss without one.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[1.0, 2.0, -1.0, 0.0], [3.0, -2.0, -1.0, 0.0]])
        >>> direction = GradDrop().combine(rows, step=0)
        >>> direction[[0, 2, 3]], float(abs(direction[1]))    # agreed: the sum; opposed: one of the two
        (array([ 4., -2.,  0.]), 2.0)

    Reference:
        Chen, Ngiam, Huang, Luong, Kretzschmar, Chai, Anguelov. Just Pick a Sign: Optimizing Deep Multitask Models
        with Gradient Sign Dropout. NeurIPS 2020, arXiv:2010.06808, Algorithm 1, with f the identity.

    Deviations:
        The paper masks gradients at an activation, summed over the batch; here it is those of the parameters.
    """

    leak: Mapping[str, float] | None = field(default=None, hash=False)
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("GradDrop", "seed", self.seed, 0)
        check_nonnegative("GradDrop", "leaks", self.leak)
        for name, value in (self.leak or {}).items():
            if value > 1:
                raise ValueError(f"GradDrop needs leaks in [0, 1]; got {value} for {name!r}")

    def combine(self, rows: Array, /, *, step: Array, offset: int = 0, names: tuple[str, ...] | None = None) -> Array:
        xp = array_namespace(rows)
        flat = xp.reshape(rows, (rows.shape[0], -1))
        total = xp.sum(xp.abs(flat), axis=0)
        purity = (1 + xp.sum(flat, axis=0) / xp.where(total > 0, total, 1)) / 2
        drawn = uniforms(self.seed, step, tuple(total.shape), flat, offset=offset)
        kept = ((purity > drawn) & (flat > 0)) | ((purity < drawn) & (flat < 0))
        leak = by_name("GradDrop", "leak", self.leak, names, flat[:, 0], 0.0)[:, None]
        return xp.reshape(xp.sum((leak + (1 - leak) * xp.astype(kept, rows.dtype)) * flat, axis=0), rows.shape[1:])
