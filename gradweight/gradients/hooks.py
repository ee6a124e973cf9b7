"""Engine "hooks": one ``.backward()`` per loss, whose ``.grad`` is set aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from ..linalg.rows import Row
from .autograd import BackwardPasses, cotangent_of, dense

__all__ = ["by_hooks"]


def by_hooks(
    losses: Sequence[Tensor], params: Sequence[Tensor], retain: Sequence[bool], scale: Tensor | None
) -> Iterator[Row]:
    """The gradients that each loss's backward pass leaves in ``.grad``; what was there before is put back at the end.

    A row is yielded before the backward pass of the next loss begins. Closing the iterator early puts
    ``.grad`` back too.
    """
    passes = BackwardPasses()
    before = [p.grad for p in params]
    try:
        for loss, keep in zip(losses, retain, strict=True):
            for p in params:
                p.grad = None
            with passes:
                loss.backward(cotangent_of(loss, scale), retain_graph=keep)  # type: ignore[no-untyped-call]
            yield [dense(p.grad) for p in params]
    finally:
        for p, grad in zip(params, before, strict=True):
            p.grad = grad
