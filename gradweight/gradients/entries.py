"""Entries: losses taken out of a stack, which are walked back from the terms that they came from.

Autograd walks back through ``torch.stack`` into every term, with zeros for all but one: m losses taken out of one stack
would walk the graphs of all, m times. The graph says which entry is which, so the walk begins behind the stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..torch_private import selected
from .graph import Edge, edge_of

__all__ = ["Entry", "starts_of"]

_POINTWISE = {f"{operation}Backward0" for operation in ("Mul", "Div", "Add", "Sub", "Neg", "ToCopy", "Clone", "Alias")}
"""What may lie between a stack and what is taken out of it, with constants such as loss weights, and after that."""
_FIRST = _POINTWISE | {"SelectBackward0", "UnbindBackward0"}


@dataclass(frozen=True)
class Entry:
    """A loss that is the entry ``index`` of a stack, or a multiple of it.

    Args:
        loss: the loss.
        stack: the stack of 0-dim terms.
        index: which of them it is.
        term: that term.
    """

    loss: Tensor
    stack: GradientEdge
    index: int
    term: GradientEdge

    def cotangent(self, cotangent: Tensor | None) -> Tensor:
        """That of the term, from that of the loss: a walk as far as the stack."""
        (of_stack,) = torch.autograd.grad(self.loss, self.stack, cotangent, retain_graph=True)
        return of_stack[self.index]


def starts_of(losses: Iterable[Tensor], params: Sequence[Tensor]) -> list[Tensor | Entry]:
    """Where the walk back from each loss begins: at the loss itself, or at the term that it was before it was stacked.

    Args:
        losses: with their graphs.
        params: to differentiate by. A walk must come by those that are no leaves.
    """
    inner = {p.grad_fn for p in params if p.grad_fn is not None}
    # by the name of the type, before anything is called: most losses are no entries
    return [(type(loss.grad_fn).__name__ in _FIRST and _entry_of(loss, inner)) or loss for loss in losses]


def _entry_of(loss: Tensor, inner: set[Node]) -> Entry | None:
    # where what is taken out is 0-dim, as the loss is, the stack is a vector: constants do not take dimensions away
    if loss.grad_fn is None or loss.dim() > 0:
        return None
    taken = _behind_pointwise(edge_of(loss), inner)
    index = None if taken is None or taken[0] in inner else selected(*taken)
    if taken is None or index is None:
        return None
    stacked = _behind_pointwise(taken[0].next_functions[0], inner)  # type: ignore[arg-type]
    if stacked is None or stacked[0] in inner or stacked[0].name() != "StackBackward0":
        return None
    terms = stacked[0].next_functions
    if len(terms) == 1 or not -len(terms) <= index < len(terms):
        return None
    term, result = terms[index]
    if term is None or type(term).__name__ == "AccumulateGrad":
        return None
    return Entry(loss, GradientEdge(*stacked), index, GradientEdge(term, result))


def _behind_pointwise(edge: Edge, inner: set[Node]) -> Edge | None:
    """The first that is no pointwise operation on one tensor with a graph; None if a parameter lies before it."""
    while edge[0].name() in _POINTWISE:
        behind = [next_edge for next_edge in edge[0].next_functions if next_edge[0] is not None]
        if len(behind) != 1 or edge[0] in inner:
            return None
        edge = behind[0]  # type: ignore[assignment]
    return edge
