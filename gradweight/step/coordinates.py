"""Coordinate rules: directions formed from the stacked gradients of one parameter at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..linalg.rows import Row

__all__ = ["directions_by_coordinate"]


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
