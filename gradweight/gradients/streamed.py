"""Gram matrix without rows: inner products of all losses' gradients from one backward pass that keeps none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..linalg.gram import CUTS
from .batched import one_hot, unbatched_message
from .graph import Graph, check_reached

__all__ = ["streamed_gram"]


def streamed_gram(losses: dict[str, Tensor], params: Sequence[Tensor], scale: Tensor | None) -> Tensor:
    """``G[i, j] = sum_p Re <g_ip, conj g_jp>`` by one backward pass vectorised over the losses: (m, m).

    A hook of each parameter adds that parameter's products to the matrix as soon as its m gradients are there, and
    hands zeros without memory of their own on. So at most one parameter's gradients exist at a time, and the
    intermediate gradients of m losses. The graphs are kept for another backward pass.

    Args:
        losses: name -> scalar tensor, with their graphs.
        params: the parameters.
        scale: 0-dim, what the gradients are multiplied by; None for 1.

    Returns:
        The matrix, symmetric; float64 if any parameter is double precision, else float32, as `gradweight.linalg.gram`
        has it. Products are formed in double precision where the device has it.

    Raises:
        ValueError: a loss reaches no parameter.
        RuntimeError: an operation's backward cannot be vectorised; a reentrant checkpoint.
    """
    values = list(losses.values())
    check_reached(losses, Graph.of_each(values), params, "gram")
    products = _Products(len(values))
    hooks = [p.register_hook(products.add_and_drop) for p in params]  # type: ignore[no-untyped-call]

    def backward(cotangents: tuple[Tensor, ...]) -> Tensor:
        torch.autograd.grad(values, params, cotangents, retain_graph=True, allow_unused=True)
        return cotangents[0]  # vmap takes no None, as a parameter that no loss reaches has

    try:
        torch.vmap(backward)(tuple(one_hot(values, scale)))
    except RuntimeError as error:
        raise RuntimeError(unbatched_message("gram")) from error
    finally:
        for hook in hooks:
            hook.remove()
    return products.total(params)


class _Products:
    """The sum of the products over the parameters seen, on each device by itself.

    Args:
        m: how many losses.
    """

    def __init__(self, m: int) -> None:
        self.m = m
        self.sums: dict[torch.device, Tensor] = {}

    def add_and_drop(self, gradient: Tensor) -> Tensor:
        """The hook of a parameter."""
        dropped: Tensor = _AddAndDrop.apply(gradient, self)  # type: ignore[no-untyped-call]
        return dropped

    def add(self, gradients: Tensor) -> None:
        """Add the products of m gradients, or of one that all losses have: (m, n) or (1, n)."""
        if gradients.is_complex():
            gradients = torch.view_as_real(gradients.resolve_conj()).flatten(1)
        device = gradients.device
        cut = CUTS.get(device.type, CUTS["cuda"])
        wide = torch.float64 if device.type in ("cpu", "cuda") else torch.float32  # others may have no double precision
        if device not in self.sums:
            self.sums[device] = torch.zeros(self.m, self.m, dtype=wide, device=device)
        # piece by piece: a copy of one in double precision is all that exists beside the gradients
        for piece in torch.split(gradients, max(1, cut.piece // self.m), dim=1):
            piece = piece.to(wide)
            self.sums[device] += piece @ piece.mT

    def total(self, params: Sequence[Tensor]) -> Tensor:
        """The sum over the devices, on that of the first parameter."""
        like = params[0]
        double = any(p.dtype in (torch.float64, torch.complex128) for p in params)
        dtype = torch.float64 if double else torch.float32
        total = torch.zeros(self.m, self.m, dtype=dtype, device=like.device)
        for part in self.sums.values():
            total = total + part.to(like.device).to(dtype)
        # a product of matrices need not be symmetric to the last bit
        return (total + total.mT) / 2


class _AddAndDrop(torch.autograd.Function):
    """Zeros for a gradient whose products have been added; `vmap` is where all m of it are at hand."""

    @staticmethod
    def forward(gradient: Tensor, products: _Products) -> Tensor:
        products.add(gradient.detach().reshape(1, -1))
        return gradient.new_zeros(()).expand_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        return

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], gradient: Tensor, products: _Products) -> tuple[Tensor, None]:
        gradients = gradient.movedim(in_dims[0], 0)
        products.add(gradients.flatten(1) if gradients.dim() > 1 else gradients.unsqueeze(1))
        return gradient.new_zeros(()).expand(gradients.shape[1:]), None
