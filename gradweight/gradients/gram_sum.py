"""GramSum: a Gram matrix that grows parameter by parameter, from gradients or from what they are products of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..linalg.gram import CUTS

__all__ = ["GramSum"]


class GramSum:
    """The sum of inner products over the parameters seen, on each device by itself, in double precision if it has any.

    Args:
        m: how many losses.
    """

    def __init__(self, m: int) -> None:
        self.m = m
        self.sums: dict[torch.device, Tensor] = {}

    def add(self, gradients: Tensor) -> None:
        """Add the products of m gradients: (m, n)."""
        if gradients.is_complex():
            gradients = torch.view_as_real(gradients.resolve_conj()).flatten(1)
        # piece by piece: a copy of one in double precision is all that exists beside the gradients
        for piece in torch.split(gradients, max(1, _piece(gradients) // self.m), dim=1):
            piece = _wide(piece)
            self._add(piece @ piece.mT)

    def add_factored(self, a: Tensor, b: Tensor) -> None:
        """Add the products of the gradients ``sum_t a[i, t] b[i, t]^T``, a (m, T, p) and b (m, T, q).

        Those are ``sum_ts <a[i, t], a[j, s]> <b[i, t], b[j, s]>``: of T = 1 two products of m x m matrices. Where T is
        so large that this takes longer, the gradients are formed, of some rows of the parameter at a time.
        """
        m, rows, p = a.shape
        q = b.shape[2]
        if m * rows * rows * (p + q) > (rows + m) * p * q:
            for piece in torch.split(a, max(1, _piece(a) // (m * q)), dim=2):
                self.add(torch.bmm(piece.mT, b).flatten(1))
            return
        a, b = _wide(a).flatten(0, 1), _wide(b).flatten(0, 1)
        at_once = max(1, _piece(a) // (m * rows * rows))
        found = []
        for start in range(0, m, at_once):
            some = slice(start * rows, (start + at_once) * rows)
            products = (a[some] @ a.mT) * (b[some] @ b.mT)
            found.append(products if rows == 1 else products.view(-1, rows, m, rows).sum((1, 3)))
        self._add(torch.cat(found))

    def _add(self, products: Tensor) -> None:
        device = products.device
        if device not in self.sums:
            self.sums[device] = torch.zeros(self.m, self.m, dtype=products.dtype, device=device)
        self.sums[device] += products

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


def _piece(tensor: Tensor) -> int:
    """How many elements are multiplied at a time."""
    return CUTS.get(tensor.device.type, CUTS["cuda"]).piece


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64 if tensor.device.type in ("cpu", "cuda") else torch.float32)
