"""Deferred: what waits for the backward pass of the host."""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["Deferred"]


class Deferred(ABC):
    """What waits for the backward pass of the host; as text, what it is that waits and what for."""

    done = False
    """Whether a backward pass has come to it, with or without success."""

    remedy: str
    """What to do about it where something else comes first."""

    @abstractmethod
    def __str__(self) -> str:
        """What waits."""
