"""Buckets: flat buffers in which rows travel between processes, a few large ones instead of one for each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..linalg.layout import is_dense
from ..linalg.rows import Row

__all__ = ["CAPACITY", "Bucket", "buckets_of"]

CAPACITY = 2**23
"""Elements of a bucket, 32 MiB of float32: large enough to run at the network's bandwidth, small enough that a row
need not be in memory twice. A larger parameter has a bucket of its own."""

SHARE = 2**18
"""Elements of a bucket for each process, where they are many: a ring's latency grows with its length."""


@dataclass(frozen=True)
class Bucket:
    """Parameters of one dtype and device that travel together, one after the other in the order of their storage.

    Args:
        indices: which parameters.
        params: those parameters.
        starts: where each begins; one more entry for the end.
        length: elements in the buffer, a multiple of the number of processes.
    """

    indices: tuple[int, ...]
    params: tuple[Tensor, ...]
    starts: tuple[int, ...]
    length: int

    def empty(self, parts: int = 1) -> Tensor:
        """A buffer, or one of ``parts`` equal shards of it."""
        return torch.empty(self.length // parts, dtype=self.params[0].dtype, device=self.params[0].device)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The buffer as one tensor per parameter, of its shape and strides."""
        pieces = [flat[a:b] for a, b in pairwise(self.starts)]
        return [
            piece.as_strided(p.shape, p.stride(), piece.storage_offset()) if is_dense(p) else piece.view(p.shape)
            for piece, p in zip(pieces, self.params, strict=True)
        ]

    def pieces(self, shard: Tensor, part: int) -> list[Tensor]:
        """What lies of each parameter in shard number ``part``, 1-D, possibly nothing."""
        first = part * shard.numel()
        bounds = [min(max(start - first, 0), shard.numel()) for start in self.starts]
        return [shard[a:b] for a, b in pairwise(bounds)]

    def skipped(self, part: int, parts: int) -> list[int]:
        """How many elements of each parameter come before those in shard number ``part``."""
        first = part * (self.length // parts)
        return [min(max(first - a, 0), b - a) for a, b in pairwise(self.starts)]

    def filled(self, row: Row) -> Tensor:
        """A new buffer with the gradients of ``row``, zeros where it has none; they are dropped from ``row``."""
        flat = self.empty()
        flat[self.starts[-1] :].zero_()
        for index, view in zip(self.indices, self.views(flat), strict=True):
            gradient = row[index] if row else None
            if gradient is None:
                view.zero_()
            else:
                view.copy_(gradient)
                row[index] = None  # so that a row and its copy are never in memory as a whole
        return flat


def buckets_of(params: Sequence[Tensor], indices: Sequence[int], processes: int) -> list[Bucket]:
    """The parameters at ``indices``, in their order, in buckets of `CAPACITY` or `SHARE` for each process at most."""
    capacity = max(CAPACITY, SHARE * processes)
    open_: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    groups: list[list[int]] = []
    for index in indices:
        p = params[index]
        group = open_.get((p.dtype, p.device))
        if group is None or sum(params[i].numel() for i in group) + p.numel() > capacity:
            group = open_[p.dtype, p.device] = []
            groups.append(group)
        group.append(index)
    return [_bucket(params, group, processes) for group in groups]


def _bucket(params: Sequence[Tensor], indices: Sequence[int], processes: int) -> Bucket:
    members = tuple(params[i].detach() for i in indices)
    starts = [0]
    for p in members:
        starts.append(starts[-1] + p.numel())
    length = -(-starts[-1] // processes) * processes
    return Bucket(tuple(indices), members, tuple(starts), length)
