"""Settings: how steps are to be taken, and what one `backward` was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..distributed import Group, Reduce
from .combiner import Blocks, Combiner

__all__ = ["MicroBatch", "Settings"]


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


@dataclass(frozen=True)
class MicroBatch:
    """What one `backward` was given, and the parameters that it is to differentiate by."""

    losses: Any
    params: list[Tensor]
    signals: Mapping[str, Tensor | float]
    scale: Tensor | None
    retain_graph: bool
    joined: bool
    settings: Settings

    def call(self) -> str:
        """What all processes must have in common beside the names of the losses."""
        return f"{self.caller} with the signals {sorted(self.signals)}; {self.settings.described}"

    @property
    def caller(self) -> str:
        """Who was called."""
        return "join()" if self.joined else "backward()"

    def check_signals(self) -> None:
        """Raise `TypeError` unless the rule gets the signals that it needs, and no others."""
        self.settings.combiner.signals.check(self.signals, self.caller)

    def described(self, names: Iterable[str]) -> str:
        """The same with the names of the losses."""
        return f"{self.call()} of the losses {list(names)}"
