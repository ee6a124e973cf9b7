"""Deferred: what waits for the backward pass of the host."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..torch_private import in_backward_pass

__all__ = ["Deferred", "check_outside_of_backward"]


def check_outside_of_backward(caller: str) -> None:
    """Raise `RuntimeError` in a backward pass, whose way to what comes before would end here.

    A reentrant checkpoint computes first without, and once more in the backward pass.
    """
    if in_backward_pass():
        raise RuntimeError(
            f"{caller} was called within a backward pass, as torch.utils.checkpoint does with what it computes once "
            "more: call it outside of what is checkpointed"
        )


class Deferred(ABC):
    """What waits for the backward pass of the host; as text, what it is that waits and what for."""

    done = False
    """Whether a backward pass has come to it, with or without success."""

    remedy: str
    """What to do about it where something else comes first."""

    @abstractmethod
    def __str__(self) -> str:
        """What waits."""
