"""CombinerInput: what a combination is formed from, and where its direction goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..distributed.sums import RowSums
from ..gradients.accumulation import AccumulatedGradients
from ..rule import State

__all__ = ["CombinerInput"]


@dataclass(frozen=True)
class CombinerInput:
    """What a combination is formed from, and where its direction goes.

    Args:
        accumulated: the rows, the losses and the signals.
        blocks: the block that each parameter belongs to, None for those left alone (weight 1 for every loss); or None
            for a single combination.
        saved: what the rule remembers.
        out: where to write, one per parameter; None where no loss reaches it.
        sums: how inner products are formed, where other processes hold parts of the rows.
    """

    accumulated: AccumulatedGradients
    blocks: Sequence[str | None] | None
    saved: State
    out: Sequence[Tensor | None]
    sums: RowSums

    def tensors(self) -> list[Tensor | None]:
        """All gradients, row by row, and ``out``; None for what does not exist."""
        return [tensor for some in (*self.accumulated.rows, self.out) for tensor in some]
