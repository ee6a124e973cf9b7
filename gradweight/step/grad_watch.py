"""GradWatch: whether ``.grad`` still holds the direction that was written there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..linalg.host_access import is_captured

__all__ = ["GradWatch", "added_to"]


@dataclass
class GradWatch:
    """The tensors that were written to ``.grad``, and the version counter that each had then.

    Args:
        written: parameter -> the tensor that is its ``.grad``.
        versions: of these tensors, when they were last looked at.
    """

    written: dict[Tensor, Tensor] = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)

    @staticmethod
    def of(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> GradWatch:
        """Watch what has just been written."""
        watch = GradWatch({p: grad for p, grad in zip(params, grads, strict=True) if grad is not None})
        watch.look()
        return watch

    def look(self) -> None:
        """Take ``.grad`` as it is now for unchanged."""
        self.versions = self._versions()

    def replaced(self) -> bool:
        """Whether something was written, and other tensors are there now, or none."""
        return bool(self.written) and not any(p.grad is t for p, t in self.written.items())

    def changed(self) -> bool:
        """Whether an operation has written to one of the tensors in place."""
        return self.versions != self._versions()

    def all_zero(self) -> bool:
        """Whether all written tensors are zero. A host sync, needed only where `changed`."""
        return not any(_nonzero(tensor) for tensor in self.written.values())

    def foreign(self, params: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """The gradients that were there already, or that others have put there: parameter -> its ``.grad``."""
        return {p: grad for p in params if (grad := p.grad) is not None and grad is not self.written.get(p)}

    def look_for_zeros(self) -> bool:
        """Whether all written tensors are zero, unless a CUDA graph is being captured, where nothing can be read."""
        return bool(self.written) and not is_captured(next(iter(self.written))) and self.all_zero()

    def others_nonzero(self) -> bool:
        """Whether a ``.grad`` that is there now has an entry other than zero. A host sync."""
        return any(p.grad is not None and _nonzero(p.grad) for p in self.written)

    def _versions(self) -> list[int]:
        return [tensor._version for tensor in self.written.values()]


def _nonzero(tensor: Tensor) -> bool:
    return tensor.is_meta or bool(tensor.any())  # a dry run on the meta device has no values: as any others


def added_to(
    foreign: dict[Tensor, Tensor], params: Sequence[Tensor], directions: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The directions, which are written to, with what lay in ``.grad`` before."""
    sums: list[Tensor | None] = []
    for p, direction in zip(params, directions, strict=True):
        other = foreign.get(p)
        if direction is None or other is None:
            sums.append(other if direction is None else direction)
        else:
            sums.append(direction.add_(other.detach()))
    return sums
