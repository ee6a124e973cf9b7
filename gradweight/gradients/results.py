"""What an engine returns."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass

from torch import Tensor

from ..linalg.rows import Row

__all__ = ["Gradients"]


@dataclass(frozen=True)
class Gradients:
    """The gradients of some losses.

    Args:
        names: of the losses, in order.
        losses: their values, detached.
        rows: one per loss. An iterator runs one backward pass for each row that is taken from it; it can be taken
            from once, and must be taken to its end or closed.
    """

    names: tuple[str, ...]
    losses: list[Tensor]
    rows: Iterable[Row]

    def iterate(self) -> Generator[Row, None, None]:
        """The rows one after the other; closing this closes the iterator that they come from."""
        yield from self.rows

    def taken(self) -> Gradients:
        """The same with all backward passes done."""
        return Gradients(self.names, self.losses, list(self.rows))

    def ordered(self, names: Collection[str]) -> Gradients:
        """The same with the losses in the order of ``names``."""
        places = [self.names.index(name) for name in names]
        rows = list(self.rows)
        return Gradients(tuple(names), [self.losses[i] for i in places], [rows[i] for i in places])
