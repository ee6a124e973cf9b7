"""Piecewise: a weighted sum of gradients where an operation is a function call, so that what counts is memory.

One pass over the memory where torch has an operation for that; else a piece at a time, as large as the caches are, so
that what the first loss has written is still there when the next is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .layout import LOW_PRECISION, flatten, is_dense
from .readable import readable

__all__ = ["Factor", "combine_piecewise", "factors_of"]

Factor: TypeAlias = tuple[Tensor, float | None]
"""A weight, 0-dim, and the number that it is, if the host can read it."""

CACHED = 2**17
"""Elements of the sum that each thread writes before it goes on, so that they stay in its cache meanwhile."""


def factors_of(weights: Tensor) -> list[Factor]:
    """The entries of (m,) weights."""
    numbers = weights.tolist() if readable(weights) and not weights.is_complex() else [None] * len(weights)
    return list(zip(weights.unbind(), numbers, strict=True))


def combine_piecewise(target: Tensor, terms: Sequence[tuple[Factor, Tensor]]) -> None:
    """Write the sum of factor times tensor into ``target``, which may be the first of the tensors.

    Half-precision tensors are summed in the precision of the factors, and rounded once.
    """
    tensors = [target, *(tensor for _, tensor in terms)]
    factors = [factor for factor, _ in terms]
    size = CACHED * torch.get_num_threads()
    if target.numel() <= size or not _are_aligned(tensors):
        _add_up(factors, tensors)
        return
    flat = flatten(tensors)
    if len(terms) > 1 and factors[1][1] is not None and target.dtype not in LOW_PRECISION:
        if len(terms) == 2:
            _add_two(factors, flat)
            return
        for piece in _pieces(flat, size):
            _add_two(factors[:2], piece[:3])
            _add_more(factors[2:], piece[0], piece[3:])
        return
    for piece in _pieces(flat, size):
        _add_up(factors, piece)


def _are_aligned(tensors: Sequence[Tensor]) -> bool:
    """Whether they can be flattened without a copy: what is written to a copy of the target is lost."""
    target = tensors[0]
    return (
        is_dense(target)
        and not target.is_complex()
        and not torch.compiler.is_compiling()  # which cuts by itself
        and all(tensor.stride() == target.stride() for tensor in tensors)
    )


def _pieces(tensors: Sequence[Tensor], size: int) -> Iterable[Sequence[Tensor]]:
    return zip(*(torch.split(t, size) for t in tensors), strict=True)


def _add_up(factors: Sequence[Factor], tensors: Sequence[Tensor]) -> None:
    target, first, *others = tensors
    (weight, _), *rest = factors
    if target.dtype in LOW_PRECISION:
        parts = [w * t.to(w.dtype) for (w, _), t in zip(factors, tensors[1:], strict=True)]
        target.copy_(torch.stack(parts).sum(0))
        return
    torch.mul(first, weight, out=target)
    _add_more(rest, target, others)


def _add_more(factors: Sequence[Factor], target: Tensor, tensors: Sequence[Tensor]) -> None:
    for (weight, _), tensor in zip(factors, tensors, strict=True):
        target.addcmul_(tensor, weight)


def _add_two(factors: Sequence[Factor], tensors: Sequence[Tensor]) -> None:
    """In one pass: ``beta x + alpha [1] y^T`` for 1-D y, as a matrix of one row."""
    target, x, y = tensors
    (weight, beta), (_, alpha) = factors
    torch.addr(x[None], weight.new_ones(1), y, beta=beta, alpha=alpha, out=target[None])  # type: ignore[arg-type]
