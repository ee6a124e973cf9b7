"""Rows: one loss's gradient as a list of tensors, one per parameter, `None` where the loss does not reach it.

What the step does with the rows of all losses: add up micro-batches, form the Gram matrix, combine with weights.
All of it reads the tensors where autograd left them; nothing here flattens or stacks k-sized data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .cache_blocked import combine_piecewise
from .foreach import CALLED, Column, add_together, added_together, combine_together
from .gram import gram
from .kernels import DEVICES, combine_by_kernel, taken
from .layout import LOW_PRECISION, fits, is_dense
from .ownership import private

__all__ = [
    "Row",
    "accumulate",
    "added",
    "combine",
    "directions_by_coordinate",
    "gram",
    "in_place_targets",
    "is_dense",
    "kept_targets",
]

Row: TypeAlias = list[Tensor | None]


def combine(rows: Sequence[Row], weights: Tensor, out: Sequence[Tensor | None]) -> None:
    """Write ``sum_i weights[i] * rows[i]`` into ``out``, parameter by parameter: (m,) weights, nothing returned.

    ``out[p]`` may be one of the tensors of ``rows`` (that of the first loss that reaches p), for combining in
    place, and is left alone where no loss reaches p. Half-precision gradients are summed in float32 and rounded once.
    """
    columns: dict[tuple[torch.device, torch.dtype], list[Column]] = {}
    for target, *tensors in zip(out, *rows, strict=True):
        if target is not None:
            columns.setdefault((target.device, target.dtype), []).append((target, tensors))
    for (device, dtype), some in columns.items():
        wide = torch.float32 if dtype in LOW_PRECISION else dtype
        _combine_columns(some, weights.to(device, wide, non_blocking=True))


def _combine_columns(columns: list[Column], weights: Tensor) -> None:
    kind = weights.device.type
    if kind in DEVICES:
        ours = [taken([target, *(t for t in tensors if t is not None)], len(weights)) for target, tensors in columns]
        by_kernel = [column for column, is_ours in zip(columns, ours, strict=True) if is_ours]
        columns = [column for column, is_ours in zip(columns, ours, strict=True) if not is_ours]
        if by_kernel:
            combine_by_kernel(by_kernel, weights)
    if columns:
        (combine_piecewise if kind in CALLED else combine_together)(columns, weights)


def directions_by_coordinate(
    rule: Callable[..., Tensor],
    name: str,
    rows: Sequence[Row],
    finite: Tensor | None,
    out: Sequence[Tensor | None],
    own: Sequence[Mapping[str, Any]],
) -> list[tuple[Tensor, Tensor]]:
    """Each target with ``rule(stacked gradients)``, (m, ...) -> (...), to be copied into it.

    A gradient that does not exist counts as zeros, a complex entry as its real and imaginary parts. Nothing is written
    here, so that a rule that fails on the last parameter has changed none. NaN unless ``finite``; None says that it
    is. For each parameter the rule is passed what is its ``own``, by keyword.

    Raises:
        ValueError: the rule, called ``name``, returned another shape than the parameter's.
    """
    directions: list[tuple[Tensor, Tensor]] = []
    for given, target, *tensors in zip(own, out, *rows, strict=True):
        if target is None or target.numel() == 0:
            continue
        stacked = torch.stack([torch.zeros_like(target) if t is None else t for t in tensors])
        if target.is_complex():  # two coordinates, as in the Gram matrix
            target, stacked = torch.view_as_real(target), torch.view_as_real(stacked)
        direction = rule(stacked, **given)
        if direction.shape != target.shape:
            raise ValueError(
                f"{name} must return the direction of a parameter, shape {tuple(target.shape)}; "
                f"got shape {tuple(direction.shape)}"
            )
        if finite is not None:
            direction = torch.where(finite.to(target.device), direction, torch.nan)
        directions.append((target, direction))
    return directions


def accumulate(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The sums ``old[i][p] + new[i][p]``, formed in the tensors of ``new`` where nobody else can see them.

    ``old`` is never written to, so that whoever fails after this has lost nothing. Autograd may return one tensor
    for two parameters, or an expanded one: those are added out of place. So are now and then those of the last loss on
    a GPU, which the thread that has walked back there may still hold for an instant.
    """
    ours = private(new)
    result: list[Row] = []
    into: list[Tensor] = []
    what: list[Tensor] = []
    apart: list[tuple[Row, int, Tensor, Tensor]] = []
    for old_row, new_row, free in zip(old, new, ours, strict=True):
        row: Row = []
        for a, b, writable in zip(old_row, new_row, free, strict=True):
            if a is None or b is None:
                row.append(b if a is None else a)
                continue
            if writable and is_dense(b):
                into.append(b)
                what.append(a)
            else:
                apart.append((row, len(row), a, b))
            row.append(b)
        result.append(row)
    add_together(into, what)
    sums = added_together([b for *_, b in apart], [a for _, _, a, _ in apart])
    for (row, index, _, _), total in zip(apart, sums, strict=True):
        row[index] = total
    return result


def added(rows: Sequence[Row]) -> Row:
    """The sum of all rows, in new tensors where several reach a parameter."""
    return [functools.reduce(_plus, tensors) for tensors in zip(*rows, strict=True)]


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def in_place_targets(rows: Sequence[Row], like: Sequence[Tensor]) -> list[Tensor | None]:
    """For each parameter a tensor to combine into: the first row's own where that is safe, else a new one.

    Safe is a tensor that nobody else holds, that shares its memory with no other gradient, and that has the strides
    of the parameter, which fused optimizers rely on without checking.
    """
    ours = private(rows)
    targets: list[Tensor | None] = []
    for index, parameter in enumerate(like):
        first = next((i for i, row in enumerate(rows) if row[index] is not None), None)
        if first is None:
            targets.append(None)
            continue
        tensor = _some(rows[first][index])
        if ours[first][index] and fits(tensor, parameter):
            targets.append(tensor)
        else:
            targets.append(torch.empty_like(parameter, requires_grad=False))
    return targets


def kept_targets(rows: Sequence[Row], like: Sequence[Tensor], kept: dict[Tensor, Tensor]) -> list[Tensor | None]:
    """For each parameter that a loss reaches, its tensor in ``kept``, made once and then used again."""
    targets: list[Tensor | None] = []
    for parameter, *tensors in zip(like, *rows, strict=True):
        if all(t is None for t in tensors):
            targets.append(None)
            continue
        target = kept.get(parameter)
        if target is None or not fits(target, parameter):
            target = kept[parameter] = torch.empty_like(parameter, requires_grad=False)
        targets.append(target)
    return targets


def _some(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
