"""Weighted sums of rows, by the way that suits the device that holds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .cache_blocked import weighted_sum_blocked
from .foreach import Column, weighted_sum_foreach
from .host_access import is_launch_bound
from .kernels import DEVICES, kernel_supports, weighted_sum_kernel
from .layout import LOW_PRECISION
from .rows import Row

__all__ = ["weighted_sum"]


def weighted_sum(rows: Sequence[Row], weights: Tensor, out: Sequence[Tensor | None]) -> None:
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
        ours = [
            kernel_supports([target, *(t for t in tensors if t is not None)], len(weights))
            for target, tensors in columns
        ]
        by_kernel = [column for column, is_ours in zip(columns, ours, strict=True) if is_ours]
        columns = [column for column, is_ours in zip(columns, ours, strict=True) if not is_ours]
        if by_kernel:
            weighted_sum_kernel(by_kernel, weights)
    if columns:
        (weighted_sum_foreach if is_launch_bound(weights.device) else weighted_sum_blocked)(columns, weights)
