"""Sums: inner products and statistics of gradients of which each process may hold a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import Tensor, distributed

from ..linalg.gram import gram
from ..linalg.layout import coordinates, first_coordinates
from ..linalg.rows import Row
from ..linalg.statistics import Statistics, statistics

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["BatchShardedSums", "Part", "ReplicatedSums", "RowSums", "ShardedSums"]

Part: TypeAlias = tuple[Sequence[Row], Sequence[int]]
"""Rows over some of the parameters, and which of them these are."""


class RowSums(Protocol):
    """How sums over all entries of a row are formed.

    ``offsets`` says of each parameter how many coordinates come before those of it that are here: real numbers, of
    which a complex entry has two.
    """

    @property
    def offsets(self) -> Sequence[int]:
        """One for each parameter."""

    def grams(self, parts: Sequence[Part]) -> list[Tensor]:
        """The Gram matrix of each part, (m, m)."""

    def statistics(self, part: Part) -> Statistics:
        """What the entries of the rows amount to."""

    def reaches(self, part: Part) -> Sequence[Tensor | None]:
        """For each parameter, which losses have a gradient that is not zero, (m,) bool; None where it is all here."""


class ReplicatedSums:
    """Rows are replicated: every process holds all of each, or there is one process.

    Args:
        params: the parameters.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = params

    @property
    def offsets(self) -> Sequence[int]:
        """One parameter after the other."""
        return first_coordinates(self.params)[:-1]

    def grams(self, parts: Sequence[Part]) -> list[Tensor]:
        """One `gram` each."""
        return [gram(rows) for rows, _ in parts]

    def statistics(self, part: Part) -> Statistics:
        """As they are."""
        return statistics(part[0])

    def reaches(self, part: Part) -> Sequence[Tensor | None]:
        """All is here."""
        return [None] * len(part[1])


class ShardedSums:
    """Rows are sharded: every process holds a shard of each parameter, or a replica of one.

    Args:
        group: the processes.
        params: the parameters, as a whole.
        replicas: how many processes hold the same part, for each parameter.
        offsets: how many coordinates of all parameters come before each part.
    """

    def __init__(
        self, group: ProcessGroup, params: Sequence[Tensor], replicas: Sequence[int], offsets: Sequence[int]
    ) -> None:
        self.offsets = offsets
        self.group = group
        self.params = params
        self.replicas = replicas

    def grams(self, parts: Sequence[Part]) -> list[Tensor]:
        """Partial inner products, added up in one reduction for all parts."""
        partial: list[Tensor] = []
        for rows, indices in parts:
            terms = [
                gram([[row[i] for i in some] for row in rows]) / n for n, some in self._by_replicas(indices).items()
            ]
            partial.append(torch.stack(terms).sum(0))
        total = torch.stack(partial)
        distributed.all_reduce(total, group=self.group)
        return list(total.unbind())

    def statistics(self, part: Part) -> Statistics:
        """Sums and maxima, reduced."""
        rows, indices = part
        found = {
            n: statistics([[row[i] for i in some] for row in rows]) for n, some in self._by_replicas(indices).items()
        }
        largest = torch.stack([one.max_abs for one in found.values()]).amax(0)
        total = torch.stack([one.sum_abs / n for n, one in found.items()]).sum(0)
        _largest_and_total(largest, total, self.group)
        reached = (i for position, i in enumerate(indices) if any(row[position] is not None for row in rows))
        count = sum(coordinates(self.params[i]) for i in reached)
        return Statistics(largest, total, count)

    def reaches(self, part: Part) -> Sequence[Tensor | None]:
        """Whether any process has an entry that is not zero."""
        rows, indices = part
        device = next(t.device for row in rows for t in row if t is not None)
        none = torch.zeros((), dtype=torch.uint8, device=device)
        entries = [none if row[i] is None else _any(row[i], device) for i in range(len(indices)) for row in rows]
        together = torch.stack(entries).view(len(indices), -1)
        distributed.all_reduce(together, op=distributed.ReduceOp.MAX, group=self.group)
        return together.bool().unbind()

    def _by_replicas(self, indices: Sequence[int]) -> dict[int, list[int]]:
        positions: dict[int, list[int]] = {}
        for position, index in enumerate(indices):
            positions.setdefault(self.replicas[index], []).append(position)
        return positions


class BatchShardedSums:
    """Rows are gradients at activations, and every process holds those of its own samples, by its own loss.

    The loss of all is the mean of those of each, so its gradient at a process's samples is 1/n of what that has.

    Args:
        group: the n processes.
        features: the activations.
    """

    def __init__(self, group: ProcessGroup, features: Sequence[Tensor]) -> None:
        self.group = group
        self.features = features
        self.size = distributed.get_world_size(group)

    @property
    def offsets(self) -> Sequence[int]:
        """One tensor after the other, one process after the other."""
        *starts, total = first_coordinates(self.features)
        return [distributed.get_rank(self.group) * total + start for start in starts]

    def grams(self, parts: Sequence[Part]) -> list[Tensor]:
        """Inner products over the samples of all."""
        together = torch.stack([gram(rows) for rows, _ in parts]) / self.size**2
        distributed.all_reduce(together, group=self.group)
        return list(together.unbind())

    def statistics(self, part: Part) -> Statistics:
        """Over the samples of all, of which each process is taken to have as many."""
        found = statistics(part[0])
        largest, total = found.max_abs / self.size, found.sum_abs / self.size
        _largest_and_total(largest, total, self.group)
        return Statistics(largest, total, found.count * self.size)

    def reaches(self, part: Part) -> Sequence[Tensor | None]:
        """Whether any process has an entry that is not zero."""
        return ShardedSums(self.group, self.features, [1] * len(self.features), []).reaches(part)


def _any(tensor: Tensor | None, device: torch.device) -> Tensor:
    assert tensor is not None
    return tensor.any().to(device, torch.uint8)


def _largest_and_total(largest: Tensor, total: Tensor, group: ProcessGroup) -> None:
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX, group=group)
    distributed.all_reduce(total, group=group)
