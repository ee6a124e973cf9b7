"""Phase: where a step is."""

from __future__ import annotations

from enum import Enum, auto

__all__ = ["Phase"]


class Phase(Enum):
    """Where a step is.

    `backward` leads to READY, within `no_sync` to UNSYNCED; the base's step leads from READY to STEPPED; `zero_grad`
    leads to EMPTY. A further `backward` adds to what there is, after STEPPED too unless ``.grad`` has been zeroed.
    """

    EMPTY = auto()
    """Nothing has been gathered."""
    UNSYNCED = auto()
    """There are rows that were not averaged over the processes: there is no direction for them yet."""
    READY = auto()
    """The direction is in ``.grad``."""
    STEPPED = auto()
    """The base has stepped along it."""
