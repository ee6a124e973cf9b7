"""What an engine returns."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from ..linalg.rows import Row

__all__ = ["Gradients"]


@dataclass(frozen=True)
class Gradients:
    """What an engine returns: the names in order, the (detached) loss values and one row per loss."""

    names: tuple[str, ...]
    losses: list[Tensor]
    rows: list[Row]

    def ordered(self, names: Collection[str]) -> Gradients:
        """The same with the losses in the order of ``names``."""
        places = [self.names.index(name) for name in names]
        return Gradients(tuple(names), [self.losses[i] for i in places], [self.rows[i] for i in places])
