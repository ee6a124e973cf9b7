"""Gram matrix without rows: inner products of all losses' gradients from one backward pass that keeps none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .batched import one_hot, unbatched_message
from .gram_sum import GramSum
from .graph import Graph, check_reached
from .sample_layers import SampleLayers, layers_by_sample

__all__ = ["streamed_gram"]


def streamed_gram(losses: dict[str, Tensor], params: Sequence[Tensor], scale: Tensor | None) -> Tensor:
    """``G[i, j] = sum_p Re <g_ip, conj g_jp>`` by one backward pass vectorised over the losses: (m, m).

    A hook of each parameter adds that parameter's products to the matrix as soon as its m gradients are there, and
    hands zeros without memory of their own on. So at most one parameter's gradients exist at a time, and the
    intermediate gradients of m losses. The graphs are kept for another backward pass.

    Where the losses are the values of one vector, of which each depends on its own rows of a batch alone, the products
    of linear layers come from their inputs x and their results' gradients d instead, ``<x_i, x_j> <d_i, d_j>``, which
    one plain backward pass finds: "ghost" norms and inner products (Goodfellow, Efficient per-example gradient
    computations, arXiv:1510.01799; Li et al., Large language models can be strong differentially private learners, ICLR
    2022, arXiv:2110.05679). What else there is goes the way above.

    Args:
        losses: name -> scalar tensor, with their graphs.
        params: the parameters.
        scale: 0-dim, what the gradients are multiplied by; None for 1.

    Returns:
        The matrix, symmetric; float64 if any parameter is double precision, else float32, as `gradweight.linalg.gram`
        has it. Products are formed in double precision where the device has it.

    Raises:
        ValueError: a loss reaches no parameter.
        RuntimeError: an operation's backward cannot be vectorised, or wrongly; a reentrant checkpoint.
    """
    values = list(losses.values())
    graphs = Graph.of_each(values)
    check_reached(losses, graphs, params, "gram")
    sums, rest = GramSum(len(values)), list(params)
    layers = layers_by_sample(values, params)
    if layers is not None:
        _add_layers(sums, layers, values[0], scale)
        rest = [p for p in params if id(p) not in layers.weights and id(p) not in layers.biases and _met(p, graphs)]
    if rest:
        if any(node.name() == "CdistBackward0" for graph in graphs for node in graph.nodes):
            raise RuntimeError(_CDIST)
        _add_streamed(sums, values, rest, scale)
    return sums.total(params)


_CDIST = (
    "engine='gram' does not go through torch.cdist, where torch.vmap takes the gradient of the first loss for those of "
    "all: call it with compute_mode='use_mm_for_euclid_dist', or use engine='autograd'"
)


def _met(parameter: Tensor, graphs: Sequence[Graph]) -> bool:
    """Whether a loss may reach the parameter: in its graph, or inside a function of somebody's own."""
    return any(graph.custom or id(parameter) in graph.leaves or parameter.grad_fn in graph.nodes for graph in graphs)


def _add_streamed(sums: GramSum, values: list[Tensor], params: list[Tensor], scale: Tensor | None) -> None:
    def add_and_drop(gradient: Tensor) -> Tensor:
        dropped: Tensor = _AddAndDrop.apply(gradient, sums)  # type: ignore[no-untyped-call]
        return dropped

    def backward(cotangents: tuple[Tensor, ...]) -> Tensor:
        torch.autograd.grad(values, params, cotangents, retain_graph=True, allow_unused=True)
        return cotangents[0]  # vmap takes no None, as a parameter that no loss reaches has

    hooks = [p.register_hook(add_and_drop) for p in params]  # type: ignore[no-untyped-call]
    try:
        torch.vmap(backward)(tuple(one_hot(values, scale)))
    except RuntimeError as error:
        raise RuntimeError(unbatched_message("gram")) from error
    finally:
        for hook in hooks:
            hook.remove()


def _add_layers(sums: GramSum, layers: SampleLayers, loss: Tensor, scale: Tensor | None) -> None:
    """The products of linear layers on losses by sample, from one plain backward pass to their results.

    A sample's loss depends on its own rows alone, so the gradients of the sum are those of each loss, row by row.
    """
    uses = [use for kind in (layers.weights, layers.biases) for some in kind.values() for use in some]
    nodes = list(dict.fromkeys(use.node for use in uses))
    ones = torch.ones(sums.m, dtype=loss.dtype, device=loss.device)
    cotangent = ones if scale is None else ones * scale.to(loss.device, loss.dtype)
    edges = [GradientEdge(node, 0) for node in nodes]
    found = torch.autograd.grad(GradientEdge(*layers.loss), edges, cotangent, retain_graph=True)
    gradients = {node: _by_sample(t, sums.m) for node, t in zip(nodes, found, strict=True)}
    for some in layers.weights.values():
        inputs = [_by_sample(use.inputs, sums.m) for use in some if use.inputs is not None]
        pairs = [(gradients[use.node], x) for use, x in zip(some, inputs, strict=True)]
        ordered = [pair if use.flipped else pair[::-1] for use, pair in zip(some, pairs, strict=True)]
        sums.add_factored(_joined([a for a, _ in ordered]), _joined([b for _, b in ordered]))
    for some in layers.biases.values():
        added = _joined([gradients[use.node] for use in some])
        sums.add(added.sum(1, dtype=torch.promote_types(added.dtype, torch.float32)))


def _by_sample(tensor: Tensor, n: int) -> Tensor:
    """(n T, p) -> (n, T, p)."""
    return tensor.detach().reshape(n, len(tensor) // n, -1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The uses of a parameter, which add up, one after the other as if they were further rows of a sample."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


class _AddAndDrop(torch.autograd.Function):
    """Zeros for a gradient whose products have been added; `vmap` is where all m of it are at hand.

    One that comes by itself is linear in cotangents that it does not depend on: zeros, or some operation was wrong.
    """

    @staticmethod
    def forward(gradient: Tensor, sums: GramSum) -> Tensor:
        if gradient.any():
            raise RuntimeError("a gradient of all losses that does not depend on the loss")
        return gradient.new_zeros(()).expand_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        return

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], gradient: Tensor, sums: GramSum) -> tuple[Tensor, None]:
        gradients = gradient.movedim(in_dims[0], 0)
        sums.add(gradients.flatten(1) if gradients.dim() > 1 else gradients.unsqueeze(1))
        return gradient.new_zeros(()).expand(gradients.shape[1:]), None
