"""Settings: how steps are to be taken."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..distributed import Group, Reduce
from .blocks import Blocks
from .combiner import Combiner

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How steps are to be taken; `gradweight.MultiObjectiveGradient` documents each field."""

    combiner: Combiner
    names: dict[Tensor, str]
    engine: str
    accumulate: bool
    blocks: Blocks
    refresh_every: int
    process_group: Group | bool | None
    reduce: Reduce

    @property
    def described(self) -> str:
        """What must be the same on all processes that take a step together."""
        blocks = self.blocks if isinstance(self.blocks, str | None) else "by a function"
        return f"{self.combiner.name}, reduce={self.reduce!r}, blocks={blocks!r}, refresh_every={self.refresh_every}"

    def names_of(self, params: list[Tensor]) -> list[str] | None:
        """The names of the parameters; None unless all are known."""
        return [self.names[p] for p in params] if all(p in self.names for p in params) else None
