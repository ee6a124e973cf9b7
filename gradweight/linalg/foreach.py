"""Together: one operation on many tensors in a few launches, for devices that are asked rather than called.

What these need beyond the tensors themselves is room for one term, of a part of the parameters at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .layout import LOW_PRECISION

__all__ = ["CALLED", "Column", "add_together", "added_together", "combine_together"]

CALLED = {"cpu"}
"""Kinds of devices where an operation is a function call: one for each tensor, while it is in the cache, is best."""

PART = 2**26
"""Elements that are combined at a time."""

Column = tuple[Tensor, Sequence[Tensor | None]]
"""Where to write, and the gradients of one parameter."""


def combine_together(columns: Sequence[Column], weights: Tensor) -> None:
    """Write ``sum_i weights[i] * gradients[i]`` into the targets, all of one dtype on one device.

    Half-precision gradients are summed in the precision of the weights, and rounded once.
    """
    factors = weights.unbind()
    groups: dict[tuple[int, ...], list[Column]] = {}
    for target, tensors in columns:
        groups.setdefault(tuple(i for i, t in enumerate(tensors) if t is not None), []).append((target, tensors))
    for present, group in groups.items():
        for part in _parts(group):
            targets = [target for target, _ in part]
            rows = [[tensors[i] for _, tensors in part] for i in present]
            _combine(rows, [factors[i] for i in present], targets)  # type: ignore[arg-type]


def _combine(rows: list[list[Tensor]], factors: list[Tensor], targets: list[Tensor]) -> None:
    wide = targets[0].dtype in LOW_PRECISION
    total = [torch.empty_like(t, dtype=factors[0].dtype) for t in targets] if wide else targets
    elsewhere = [(t, x) for t, x in zip(total, rows[0], strict=True) if t is not x]
    if elsewhere:
        torch._foreach_copy_([t for t, _ in elsewhere], [x for _, x in elsewhere])
    torch._foreach_mul_(total, factors[0])
    for row, factor in zip(rows[1:], factors[1:], strict=True):
        if wide:
            term = [torch.empty_like(t) for t in total]
            torch._foreach_copy_(term, row)
            torch._foreach_mul_(term, factor)
        else:
            term = list(torch._foreach_mul(row, factor))
        torch._foreach_add_(total, term)
    if wide:
        torch._foreach_copy_(targets, total)


def _parts(columns: list[Column]) -> Iterator[list[Column]]:
    part: list[Column] = []
    elements = 0
    for column in columns:
        if part and elements + column[0].numel() > PART:
            yield part
            part, elements = [], 0
        part.append(column)
        elements += column[0].numel()
    yield part


def add_together(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """``tensors[i] += others[i]``."""
    for indices in _by_kind(tensors):
        torch._foreach_add_([tensors[i] for i in indices], [others[i] for i in indices])


def added_together(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """``tensors[i] + others[i]``, in new tensors."""
    sums = list(tensors)
    for indices in _by_kind(tensors):
        found = torch._foreach_add([tensors[i] for i in indices], [others[i] for i in indices])
        for i, total in zip(indices, found, strict=True):
            sums[i] = total
    return sums


def _by_kind(tensors: Sequence[Tensor]) -> Iterable[list[int]]:
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(i)
    return groups.values()
