"""Engine "hooks": one ``.backward()`` per loss, whose ``.grad`` is set aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from ..contract.grad_hooks import grad_hooks_set_aside
from ..linalg.layout import any_sharded
from ..linalg.rows import Row
from .autograd import BackwardPasses, cotangent_of, dense
from .graph import Graph, other_leaves

__all__ = ["by_hooks"]


def by_hooks(
    losses: Sequence[Tensor],
    params: Sequence[Tensor],
    graphs: Sequence[Graph],
    retain: Sequence[bool],
    scale: Tensor | None,
) -> Iterator[Row]:
    """The gradients that each loss's backward pass leaves in ``.grad``; what was there before is put back at the end.

    So it is for the graphs' other leaves, whose gradients are dropped. With sharded parameters these are left alone:
    among them are the tensors that FSDP2 has gathered, whose ``.grad`` is its own.

    A row is yielded before the backward pass of the next loss begins. Closing the iterator early puts
    ``.grad`` back too.
    """
    passes = BackwardPasses()
    leaves = list(params) if any_sharded(params) else [*params, *other_leaves(graphs, params)]
    before = [leaf.grad for leaf in leaves]
    try:
        for loss, keep in zip(losses, retain, strict=True):
            for leaf in leaves:
                leaf.grad = None
            with passes, grad_hooks_set_aside(leaves):
                loss.backward(cotangent_of(loss, scale), retain_graph=keep)  # type: ignore[no-untyped-call]
            yield [dense(p.grad) for p in params]
    finally:
        for leaf, grad in zip(leaves, before, strict=True):
            leaf.grad = grad
