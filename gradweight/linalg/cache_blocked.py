"""Cache-blocked weighted sum: for devices whose operations are function calls, so that memory bandwidth counts.

One pass over the memory where torch has an operation for that. Else one block at a time, as large as the caches, so
that what the first loss has written is still in the cache when the next is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .foreach import Column
from .host_access import is_host_readable
from .layout import LOW_PRECISION, cut, flatten, is_dense

__all__ = ["weighted_sum_blocked"]

Term: TypeAlias = tuple[Tensor, Tensor]
"""A weight, 0-dim, and what it weights."""

CACHED = 2**17
"""Elements of the sum that each thread writes before it goes on, so that they stay in its cache meanwhile."""


def weighted_sum_blocked(columns: Sequence[Column], weights: Tensor) -> None:
    """Write ``sum_i weights[i] * gradients[i]`` into the targets, all of one dtype on one device.

    A target may be the first of its gradients. Half-precision gradients are summed in the precision of the weights,
    and rounded once.
    """
    factors = weights.unbind()
    size = CACHED * torch.get_num_threads()
    add_up = _add_up_wide if columns[0][0].dtype in LOW_PRECISION else _add_up
    for target, tensors in columns:
        terms = [(w, t) for w, t in zip(factors, tensors, strict=True) if t is not None]
        if target.numel() <= size or not _are_aligned(target, terms):
            add_up(target, terms)
            continue
        flat = flatten([target, *(t for _, t in terms)])
        if add_up is _add_up and len(terms) > 1 and is_host_readable(weights):
            numbers = [n for n, t in zip(weights.tolist(), tensors, strict=True) if t is not None]
            # two alone need no pieces
            for piece in cut(flat, size if len(terms) > 2 else flat[0].numel()):
                _add_two(piece[:3], terms[0][0], numbers)
                _add_more(piece[0], [(w, t) for (w, _), t in zip(terms[2:], piece[3:], strict=True)])
            continue
        for piece in cut(flat, size):
            add_up(piece[0], [(w, t) for (w, _), t in zip(terms, piece[1:], strict=True)])


def _are_aligned(target: Tensor, terms: Sequence[Term]) -> bool:
    """Whether they can be flattened without a copy: what is written to a copy of the target is lost."""
    return (
        is_dense(target)
        and not target.is_complex()
        and not torch.compiler.is_compiling()  # which cuts by itself
        and all(tensor.stride() == target.stride() for _, tensor in terms)
    )


def _add_up(target: Tensor, terms: Sequence[Term]) -> None:
    weight, first = terms[0]
    torch.mul(first, weight, out=target)
    _add_more(target, terms[1:])


def _add_more(target: Tensor, terms: Sequence[Term]) -> None:
    for weight, tensor in terms:
        target.addcmul_(tensor, weight)


def _add_up_wide(target: Tensor, terms: Sequence[Term]) -> None:
    target.copy_(torch.stack([weight * tensor.to(weight.dtype) for weight, tensor in terms]).sum(0))


def _add_two(tensors: Sequence[Tensor], like: Tensor, numbers: Sequence[float]) -> None:
    """In one pass: ``beta x + alpha [1] y^T`` for 1-D y, as a matrix of one row."""
    target, x, y = tensors
    beta, alpha = numbers[:2]
    torch.addr(x[None], like.new_ones(1), y, beta=beta, alpha=alpha, out=target[None])
