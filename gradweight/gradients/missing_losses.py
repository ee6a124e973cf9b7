"""Absent: losses that other processes have and this one does not, which count as zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..linalg.rows import Row
from .results import Gradients

__all__ = ["present", "with_absent"]


def present(losses: Any) -> dict[str, Any] | None:
    """The losses that this process has; None where they are functions, or nothing that could be told apart."""
    if not isinstance(losses, Mapping) or not losses:
        return None
    if not all(loss is None or isinstance(loss, Tensor) for loss in losses.values()):
        return None
    return {name: loss for name, loss in losses.items() if loss is not None}


def with_absent(
    values: Mapping[str, Tensor], names: tuple[str, ...], params: Sequence[Tensor], rows: Sequence[Row] = ()
) -> Gradients:
    """All losses, those that this process does not have at zero."""
    absent = torch.zeros((), dtype=params[0].dtype, device=params[0].device)
    return Gradients(names, [values.get(name, absent).detach() for name in names], list(rows))
