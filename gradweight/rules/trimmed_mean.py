"""Trimmed mean: in each coordinate drop the extremes and average the rest."""

import math
from dataclasses import dataclass

from ..rule import Array, array_namespace
from ._arguments import check_whole
from ._solvers.arrays import at_least, like


@dataclass(frozen=True)
class TrimmedMean:
    """The coordinate-wise mean without the ``trim`` largest and the ``trim`` smallest entries.

    For each coordinate, ``d = 1/(n - 2 trim) sum of the entries ranked trim + 1, ..., n - trim`` among the n losses
    that reach the parameter; (m, ...) -> (...). A loss whose gradient of that parameter is exactly zero in every
    entry does not reach it. Where so few do that nothing would be left, as many as leave one or two are trimmed.

    Args:
        trim: how many to drop at each end, >= 0.

    Raises:
        ValueError: trim out of its range, or fewer than ``2 trim + 1`` losses.

    Example:
        >>> import numpy as np
        >>> TrimmedMean().combine(np.array([[1.0, 2.0], [2.0, 3.0], [900.0, -900.0], [3.0, 4.0]]))
        array([2.5, 2.5])

    Signals:
        reaches: which losses reach the parameter, where ``rows`` is a part of it; supplied automatically.

    Reference:
        Yin, Chen, Ramchandran, Bartlett. Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates.
        ICML 2018, arXiv:1803.01498, the coordinate-wise trimmed mean.
    """

    trim: int = 1

    def __post_init__(self) -> None:
        check_whole("TrimmedMean", "trim", self.trim, 0)

    def combine(self, rows: Array, /, *, reaches: Array | None = None) -> Array:
        xp = array_namespace(rows)
        m = rows.shape[0]
        if m < 2 * self.trim + 1:
            raise ValueError(f"TrimmedMean(trim={self.trim}) needs {2 * self.trim + 1} losses; got {m}")
        flat = xp.reshape(rows, (m, -1))
        reaches = xp.any(flat != 0, axis=-1) if reaches is None else reaches
        n = xp.sum(xp.astype(reaches, rows.dtype))
        ranked = xp.sort(xp.where(reaches[:, None], flat, math.inf), axis=0)
        trim = at_least(xp.minimum(0 * n + self.trim, xp.floor((n - 1) / 2)), 0)
        rank = xp.arange(m, **like(rows))
        kept = ((rank >= trim) & (rank < n - trim))[:, None]
        mean = xp.sum(xp.where(kept, ranked, 0), axis=0) / at_least(n - 2 * trim, 1)
        return xp.reshape(mean, rows.shape[1:])
