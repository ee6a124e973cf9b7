"""Engine "autograd" for losses with custom functions, whose backward may itself walk a graph and write to ``.grad``.

Offloaded and custom activation checkpoints and reversible blocks are such functions. What lies inside them is in no
graph that can be looked at beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..contract.grad_hooks import grad_hooks_set_aside
from ..linalg.rows import Row, added
from .autograd import BackwardPasses, begun, dense
from .entries import Entry
from .graph import Graph, other_leaves

__all__ = ["by_autograd_with_inner"]


def by_autograd_with_inner(
    losses: Sequence[Tensor | Entry],
    params: Sequence[Tensor],
    graphs: Sequence[Graph],
    retain: Sequence[bool],
    scale: Tensor | None,
) -> Iterator[Row]:
    """As `by_autograd`, with what the backward of custom functions leaves in ``.grad``; what was there is put back.

    Autograd skips a node behind which none of the inputs lies, such as a checkpoint all of whose parameters are inside.
    So the graphs' other leaves are inputs too, whose gradients are dropped.
    """
    inputs = [*params, *other_leaves(graphs, params)]
    passes = BackwardPasses()
    before = [p.grad for p in params]
    try:
        for loss, keep in zip(losses, retain, strict=True):
            for p in params:
                p.grad = None
            with passes, grad_hooks_set_aside(params):
                start, cotangent = begun(loss, scale)
                found = torch.autograd.grad(start, inputs, cotangent, retain_graph=keep, allow_unused=True)
            yield added([[dense(t) for t in found[: len(params)]], [dense(p.grad) for p in params]])
    finally:
        for p, grad in zip(params, before, strict=True):
            p.grad = grad
