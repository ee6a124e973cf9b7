"""The communicator of several processes, which follow one direction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, Work

from ..gradients.accumulation import AccumulatedGradients
from ..gradients.losses import Losses
from ..gradients.missing_losses import RankLosses
from ..linalg.buffers import kept_buffers
from ..linalg.rows import Row
from ..torch_private import storage
from .communicator import Communicator, RowNames
from .consistency import ConsistencyCheck
from .placement import Placement, Reduce, placement_of
from .reduction import GradientReducer, RowReduction
from .sharding import to_dtensor, to_local
from .sums import BatchShardedSums, ReplicatedSums, RowSums, ShardedSums

__all__ = ["ProcessGroupCommunicator"]

T = TypeVar("T")


class ProcessGroupCommunicator(Communicator):
    """The processes of a group, each with the same parameters or with shards of them.

    Args:
        group: the processes.
        reduce: "all" or "scatter".
    """

    def __init__(self, group: ProcessGroup, reduce: Reduce) -> None:
        super().__init__(has_group=True)
        self.group = group
        self.reduce = reduce
        self.size = distributed.get_world_size(group)
        self.rank = distributed.get_rank(group)
        self.check = ConsistencyCheck(group)
        self._placement: Placement | None = None
        self._directions: list[tuple[Tensor, Tensor]] = []

    def placement(self, params: list[Tensor]) -> Placement:
        """Where the parts of a row lie; as before, as long as the parameters stay the same."""
        before = self._placement
        if before is not None and len(before.params) == len(params) and all(map(_same, before.params, params)):
            return before
        self._placement = placement_of(params, self.reduce, self.rank, self.size)
        self._kept = {}
        self._directions = []
        return self._placement

    def check_micro_batch(self, before: list[Tensor], now: list[Tensor]) -> None:
        """Raise `ValueError` if rows over these parameters cannot be added up."""
        if self.reduce == "scatter" and not (len(before) == len(now) and all(map(_same, before, now))):
            raise ValueError(
                f"reduce='scatter' needs the same parameters on all micro-batches of a step, because they say which "
                f"part of a row lies where: {len(before)} required a gradient before, {len(now)} now; call zero_grad() "
                "before parameters are frozen or thawed, or use reduce='all'"
            )

    # ---- on the hosts

    def losses_on_this_rank(self, losses: Losses) -> RankLosses:
        """The losses that are not None are here."""
        return RankLosses.of(losses)

    def all_or_none_raise(self, function: Callable[[], T], describe: Callable[[T], str]) -> T:
        """What ``function`` returns.

        Raises:
            RankMismatchError: another process failed, or was called otherwise.
        """
        with self.telling_errors():
            result = function()
        self.check.start({"call and settings": describe(result)}).wait()
        return result

    @contextmanager
    def telling_errors(self) -> Iterator[None]:
        """A context whose errors are told in the comparison that the others come to next, where they all raise."""
        try:
            yield
        except Exception as error:
            self.check.start({}, error).wait()
            raise

    def local_parts(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """What this process holds of each, without a copy."""
        return [None if tensor is None else to_local(tensor) for tensor in tensors]

    # ---- collectives

    def averaged_rows(
        self, names: RowNames, params: list[Tensor], unsynced: Sequence[Row], describe: Callable[[], str]
    ) -> RowReduction:
        """A context in which rows are averaged while the next ones are computed."""
        reducer = GradientReducer(self.group, self.reduce, self.placement(params))
        return RowReduction(self.check, reducer, names, unsynced, describe)

    def average(self, accumulated: AccumulatedGradients) -> AccumulatedGradients:
        """Losses and signals averaged over the processes, so that every one of them shows its rule the same."""
        names = list(accumulated.signals)
        values = [accumulated.losses, *(accumulated.signals[name].reshape(-1) for name in names)]
        # in one dtype, whatever that of the losses which this process happens to have
        together = torch.cat([value.to(accumulated.losses.device, torch.float64) for value in values])
        distributed.all_reduce(together, group=self.group)
        mean = (together / self.size).to(accumulated.losses)
        losses, *means = torch.split(mean, [value.numel() for value in values])
        signals = {name: found.view(accumulated.signals[name].shape) for name, found in zip(names, means, strict=True)}
        return replace(accumulated, losses=losses, signals=signals)

    def sums(self, params: list[Tensor]) -> RowSums:
        """How sums over all entries of an averaged row are formed."""
        placement = self.placement(params)
        whole = all(replicas == self.size for replicas in placement.replicas)
        return (
            ReplicatedSums(params) if whole else ShardedSums(self.group, params, placement.replicas, placement.offsets)
        )

    def sums_over_samples(self, features: list[Tensor]) -> RowSums:
        """How sums over the samples of all processes are formed, from gradients at activations."""
        return BatchShardedSums(self.group, features)

    # ---- the direction

    def out_buffers(self, rows: Sequence[Row], params: list[Tensor], in_place: bool) -> list[Tensor | None]:
        """Where to write this process's part of the direction; None where no loss reaches the parameter."""
        placement = self.placement(params)
        if in_place and self.reduce == "all" and not placement.sharded:  # the rows are parts of our own buffers
            return [next((t for t in tensors if t is not None), None) for tensors in zip(*rows, strict=True)]
        for i in placement.sharded:  # what is .grad stays as it is until the step is sure
            local = placement.local[i]
            if local in self._kept and _holds(params[i], self._kept[local]):
                del self._kept[local]
        if self.reduce == "all":
            return kept_buffers(rows, placement.local, self._kept)
        targets: list[Tensor | None] = [None] * len(params)
        for i in placement.sharded:
            [targets[i]] = kept_buffers([[row[i]] for row in rows], [placement.local[i]], self._kept)
        if not self._directions:
            self._directions = [(bucket.empty(self.size), bucket.empty()) for bucket in placement.buckets]
        for bucket, (shard, _) in zip(placement.buckets, self._directions, strict=True):
            for i, piece in zip(bucket.indices, bucket.pieces(shard, self.rank), strict=True):
                targets[i] = None if all(row[i] is None for row in rows) else piece
        return targets

    def all_gather_direction(self, parts: Sequence[Tensor | None], params: list[Tensor]) -> list[Tensor | None]:
        """The direction as ``.grad`` needs it: whole, or sharded as the parameter is."""
        placement = self.placement(params)
        grads = list(parts)
        for i in placement.sharded:
            part = parts[i]
            grads[i] = None if part is None else to_dtensor(part, params[i])
        if self.reduce == "scatter":
            # a new one where it is .grad, which stays as it is until all is there
            self._directions = [
                (shard, bucket.empty() if any(_holds(params[i], flat) for i in bucket.indices) else flat)
                for bucket, (shard, flat) in zip(placement.buckets, self._directions, strict=True)
            ]
            works = [_all_gather(flat, shard, self.group) for shard, flat in self._directions]
            for work, bucket, (_, flat) in zip(works, placement.buckets, self._directions, strict=True):
                if work is not None:
                    work.wait()
                for i, view in zip(bucket.indices, bucket.views(flat), strict=True):
                    grads[i] = None if parts[i] is None else view
        return grads


def _holds(parameter: Tensor, buffer: Tensor) -> bool:
    """Whether ``.grad`` lies in the memory of ``buffer``."""
    grad = parameter.grad
    return grad is not None and storage(to_local(grad)) == storage(buffer)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b


def _all_gather(flat: Tensor, shard: Tensor, group: ProcessGroup) -> Work | None:
    all_gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    return all_gather(flat, shard, group=group, async_op=True)  # type: ignore[no-any-return]
