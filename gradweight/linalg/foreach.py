"""Multi-tensor operations (``torch._foreach_*``), for devices on which each launch has a cost of its own.

What these need beyond the tensors themselves is room for one term, of a part of the parameters at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .layout import LOW_PRECISION

__all__ = ["Column", "foreach_add", "foreach_add_", "weighted_sum_foreach"]

PART = 2**26
"""Elements that are combined at a time."""

Column = tuple[Tensor, Sequence[Tensor | None]]
"""Where to write, and the gradients of one parameter."""


def weighted_sum_foreach(columns: Sequence[Column], weights: Tensor) -> None:
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


def foreach_add_(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """``tensors[i] += others[i]``."""
    for indices in _by_kind(tensors):
        torch._foreach_add_([tensors[i] for i in indices], [others[i] for i in indices])


def foreach_add(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
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
