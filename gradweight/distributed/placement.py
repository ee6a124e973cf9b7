"""Placement: where the parts of a row lie, and which of them this process holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..linalg.layout import first_coordinates, is_sharded, real_numbers
from .buckets import Bucket, buckets_of
from .sharding import first_coordinate, shards, to_local

__all__ = ["Placement", "Reduce", "placement_of"]

Reduce: TypeAlias = Literal["all", "scatter"]


@dataclass(frozen=True)
class Placement:
    """Where the parts of a row lie, for one list of parameters.

    Args:
        params: the parameters.
        local: what this process holds of each.
        sharded: which of them are sharded already.
        buckets: the others.
        replicas: how many processes hold the same part, for each parameter.
        offsets: how many coordinates of all parameters come before each part.
        text: what must be the same on all processes: shapes, and a checksum of the values that each holds as a whole.
    """

    params: list[Tensor]
    local: list[Tensor]
    sharded: list[int]
    buckets: list[Bucket]
    replicas: list[int]
    offsets: list[int]
    text: str


def placement_of(params: Sequence[Tensor], reduce: Reduce, rank: int, size: int) -> Placement:
    """Where the parts of a row lie on process ``rank`` of ``size``."""
    sharded = [i for i, p in enumerate(params) if is_sharded(p)]
    plain = [i for i, p in enumerate(params) if not is_sharded(p)]
    replicas = [size if reduce == "all" else 1] * len(params)
    for i in sharded:
        replicas[i] = size // shards(params[i])
    shapes = [tuple(p.shape) for p in params]
    text = f"{len(params)} of shapes {shapes} with the checksum {_checksum([params[i] for i in plain])}"
    buckets = buckets_of(params, plain, size)
    offsets = first_coordinates(params)[:-1]
    for i in sharded:
        offsets[i] += first_coordinate(params[i])
    if reduce == "scatter":
        for bucket in buckets:
            for i, skipped in zip(bucket.indices, bucket.skipped(rank, size), strict=True):
                offsets[i] += skipped * real_numbers(params[i])
    return Placement(list(params), [to_local(p) for p in params], sharded, buckets, replicas, offsets, text)


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _checksum(params: Sequence[Tensor]) -> int:
    """The sum of all values read as integers, which is exact in whatever order it is formed."""
    total = 0
    for p in params:
        real = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
        total += int(real.view(_INTEGERS[real.element_size()]).sum(dtype=torch.int64))
    return total % 2**64
