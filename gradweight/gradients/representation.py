"""Representation level: gradients at a shared tensor, and one backward pass through the trunk behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contract.arguments import tensors_of
from ..linalg.layout import any_sharded
from ..linalg.rows import Row
from .autograd import BackwardPasses, cotangent_of, dense
from .graph import Graph, edge_of, retain_graphs
from .losses import check_losses
from .results import Gradients

__all__ = ["Representation", "at_representation"]


@dataclass(frozen=True)
class Representation:
    """The gradients of every loss at the shared tensors, and those of the parameters behind them.

    Args:
        gradients: names, losses, and one row per loss with one gradient per shared tensor.
        heads: for each loss one row over all parameters: those of the heads, None for the trunk.
        features: the shared tensors.
        trunk: which parameters the shared tensors depend on.
    """

    gradients: Gradients
    heads: list[Row]
    features: list[Tensor]
    trunk: list[bool]

    def through_trunk(self, direction: Sequence[Tensor], params: Sequence[Tensor], retain_graph: bool) -> Row:
        """The trunk's gradients, by one backward pass from the combined gradient at the shared tensors."""
        wanted = [p for p, inside in zip(params, self.trunk, strict=True) if inside]
        found = iter(
            torch.autograd.grad(self.features, wanted, list(direction), retain_graph=retain_graph, allow_unused=True)
        )
        return [dense(next(found)) if inside else None for inside in self.trunk]


def at_representation(
    losses: Mapping[str, Tensor],
    features: Tensor | Sequence[Tensor],
    params: Sequence[Tensor],
    *,
    scale: Tensor | None,
    retain_graph: bool,
) -> Representation:
    """One backward pass for each loss, to the shared tensors and no further.

    Args:
        losses: name -> scalar tensor.
        features: the tensor, or tensors, that the losses share; each with a graph.
        params: all parameters, trunk and heads.
        scale: 0-dim; multiplies the gradients.
        retain_graph: keep the graphs of the heads.

    Raises:
        TypeError, ValueError: losses as in `check_losses`; a shared tensor without a graph, one that no loss depends
            on, one without parameters behind it, one that is given twice or depends on another, or a parameter used
            both before and after the shared tensors, whose gradient could not be told apart.
    """
    values = check_losses(losses)
    shared = tensors_of("shared", features)
    for tensor in shared:
        if tensor.grad_fn is None:
            raise ValueError("shared= needs tensors computed from the parameters, with a graph; got one without")
    edges = [edge_of(tensor) for tensor in shared]
    for index, tensor in enumerate(shared):
        others = {*edges[:index], *edges[index + 1 :]}
        if edges[index] in others or Graph.of(tensor, tensors=others).met:
            raise ValueError(
                "shared= needs tensors none of which depends on another, or what lies behind both would be counted "
                f"twice; the one of shape {tuple(tensor.shape)} is given twice or computed from another"
            )
    graphs = [Graph.of(loss, tensors=set(edges)) for loss in values.values()]
    behind: set[int] = set().union(*(Graph.of(tensor).leaves for tensor in shared))
    trunk = [id(p) in behind for p in params]
    if any_sharded(params):
        raise ValueError(
            "shared= cannot differentiate by sharded parameters (DTensor), whose gradients FSDP2 leaves in .grad alone"
        )
    if not any(trunk):
        raise ValueError("shared= needs tensors that depend on the parameters of the base optimizer; these do not")
    for p, inside in zip(params, trunk, strict=True):
        if inside and any(id(p) in graph.leaves for graph in graphs):
            raise ValueError(
                f"shared= needs the trunk and the heads to have parameters of their own; one of shape {tuple(p.shape)} "
                "is used both before and after the shared tensors"
            )
    rows: list[Row] = []
    heads: list[Row] = []
    passes = BackwardPasses()
    for loss, graph, keep in zip(values.values(), graphs, retain_graphs(graphs, retain_graph), strict=True):
        in_head = [id(p) in graph.leaves for p in params]
        wanted = [*shared, *(p for p, hit in zip(params, in_head, strict=True) if hit)]
        with passes:
            found = torch.autograd.grad(loss, wanted, cotangent_of(loss, scale), retain_graph=keep, allow_unused=True)
        rows.append([dense(t) for t in found[: len(shared)]])
        remaining = iter(found[len(shared) :])
        heads.append([dense(next(remaining)) if hit else None for hit in in_head])
    if all(t is None for row in rows for t in row):
        raise ValueError(f"shared= needs tensors that the losses {list(values)} depend on; none does")
    gradients = Gradients(tuple(values), [loss.detach() for loss in values.values()], rows)
    return Representation(gradients, heads, shared, trunk)
