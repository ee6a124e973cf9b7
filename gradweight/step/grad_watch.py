"""GradWatch: whether ``.grad`` still holds the direction that was written there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["GradWatch"]


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
        return not any(bool(tensor.any()) for tensor in self.written.values())

    def others_nonzero(self) -> bool:
        """Whether a ``.grad`` that is there now has an entry other than zero. A host sync."""
        return any(p.grad is not None and bool(p.grad.any()) for p in self.written)

    def _versions(self) -> list[int]:
        return [tensor._version for tensor in self.written.values()]
