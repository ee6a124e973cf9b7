"""Buffers: the tensors that the direction is written to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layout import fits
from .ownership import exclusively_owned
from .rows import Row

__all__ = ["in_place_buffers", "kept_buffers"]


def in_place_buffers(rows: Sequence[Row], like: Sequence[Tensor]) -> list[Tensor | None]:
    """For each parameter a tensor to combine into: the first row's own where that is safe, else a new one.

    Safe is a tensor that has no other owner, that shares its memory with no other gradient, and that has the strides
    of the parameter, which fused optimizers rely on without checking.
    """
    ours = exclusively_owned(rows)
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


def kept_buffers(rows: Sequence[Row], like: Sequence[Tensor], kept: dict[Tensor, Tensor]) -> list[Tensor | None]:
    """For each parameter that a loss reaches, its tensor in ``kept``, made once and then used again.

    A new one where the kept one is the ``.grad``, which must stay as it is if the combination fails.
    """
    targets: list[Tensor | None] = []
    for parameter, *tensors in zip(like, *rows, strict=True):
        for t in tensors:
            if t is not None:
                break
        else:
            targets.append(None)
            continue
        target = kept.get(parameter)
        if target is None or target is parameter.grad or not fits(target, parameter):
            target = kept[parameter] = torch.empty_like(parameter, requires_grad=False)
        targets.append(target)
    return targets


def _some(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
