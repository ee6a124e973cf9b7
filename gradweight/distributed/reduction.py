"""Reduction: the rows of one `backward`, averaged over the processes while the next loss's backward pass runs.

The order of the collectives of one `backward`, the same on every process:

1. on the hosts, all-reduce of the hash of names, parameters and settings (`ConsistencyCheck.start`), waited for before
   the first row is sent; with sharded parameters begun when the losses have been looked at, and waited for before the
   first backward pass;
2. for each loss, in the order of the names, all-reduce or reduce-scatter of its row, bucket by bucket, zeros for a loss
   that this process lacks;
3. on the hosts, all-reduce of which parameters each loss reaches and of whether a process failed
   (`ConsistencyCheck.union`);
4. all-reduce of losses and signals; of partial inner products and statistics, where rows are sharded;
5. once the rule has answered, on the hosts, all-reduce of whether it has raised anywhere;
6. all-gather of the direction, with ``reduce="scatter"``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, Work

from ..gradients.results import Gradients
from ..linalg.rows import Row, added
from .buckets import Bucket
from .communicator import AveragedRows, RowNames
from .consistency import ConsistencyCheck, PendingCheck
from .placement import Placement, Reduce
from .sharding import to_local

__all__ = ["GradientReducer", "RowReduction"]


@dataclass
class PendingBucket:
    """One bucket of a row whose reduction is under way: what is sent, what is received, and the handle to wait on."""

    sent: Tensor
    received: Tensor
    work: Work | None

    def wait(self) -> Tensor:
        """What was received. What was sent is freed here: gloo's thread lets go of it some time later."""
        if self.work is not None:
            self.work.wait()
            self.work = None
            if self.sent is not self.received:
                _free(self.sent)
        return self.received


@dataclass
class PendingRow:
    """One row whose reduction is under way; ``mask`` says which parameters its loss reaches here."""

    mask: list[bool]
    local: dict[int, Tensor]
    buckets: list[PendingBucket]


class GradientReducer:
    """Averages rows over the processes, all-reduced or reduce-scattered, bucket by bucket.

    Args:
        group: the processes.
        reduce: "all" or "scatter".
        placement: where the parts of a row lie.
    """

    def __init__(self, group: ProcessGroup, reduce: Reduce, placement: Placement) -> None:
        self.group = group
        self.reduce = reduce
        self.placement = placement
        self.size = distributed.get_world_size(group)
        self.rank = distributed.get_rank(group)

    def start_reduce(self, row: Row) -> PendingRow:
        """Start to average a row, whose tensors are used up: all-reduce or reduce-scatter, one for each bucket."""
        mask = [t is not None for t in row] if row else [False] * len(self.placement.params)
        here = {
            i: to_local(t, self.placement.params[i])
            for i in self.placement.sharded
            if row and (t := row[i]) is not None
        }
        reduced = []
        for bucket in self.placement.buckets:
            flat = bucket.filled(row).div_(self.size)
            if self.reduce == "all":
                reduced.append(PendingBucket(flat, flat, distributed.all_reduce(flat, group=self.group, async_op=True)))
            else:
                reduced.append(_reduce_scatter(flat, self.size, self.group))
        return PendingRow(mask, here, reduced)

    def finish_shard(self, pending: PendingRow) -> None:
        """Wait for a reduce-scattered row, and keep this process's shard of it only."""
        if self.reduce == "scatter":
            for bucket, reduced in zip(self.placement.buckets, pending.buckets, strict=True):
                reduced.received = self._shard(bucket, reduced)

    def wait(self, pending: PendingRow, mask: Sequence[bool]) -> Row:
        """The averaged row: None where no process reached the parameter."""
        row: Row = [None] * len(self.placement.params)
        for i, tensor in pending.local.items():
            row[i] = tensor
        for bucket, reduced in zip(self.placement.buckets, pending.buckets, strict=True):
            if self.reduce == "all":
                parts = bucket.views(reduced.wait())
            else:
                parts = bucket.pieces(self._shard(bucket, reduced), self.rank)
            for i, part in zip(bucket.indices, parts, strict=True):
                row[i] = part if mask[i] else None
        return row

    def _shard(self, bucket: Bucket, reduced: PendingBucket) -> Tensor:
        received, length = reduced.wait(), bucket.length // self.size
        if received.numel() == length:
            return received
        shard = received.view(self.size, length).sum(0)
        _free(received)
        return shard


class RowReduction(AveragedRows):
    """The context in which the rows of one `backward` are computed and averaged.

    A process that fails in it sends zeros for the rows that are left, so that no other waits for it, and tells the
    others, which raise as well.

    Args:
        check: what the hosts compare.
        reducer: how a row is averaged.
        names: of the rows, as far as they are known before.
        unsynced: rows of this process that were not averaged yet, added to the new ones.
        describe: what must be the same on all processes beside names and parameters.
    """

    def __init__(
        self,
        check: ConsistencyCheck,
        reducer: GradientReducer,
        names: RowNames,
        unsynced: Sequence[Row],
        describe: Callable[[], str],
    ) -> None:
        self.check = check
        self.reducer = reducer
        self.unsynced = list(unsynced)
        self.describe = describe
        self.known_names = names
        self.names: tuple[str, ...] | None = None  # once the check has begun
        self.pending: list[PendingRow] = []
        self.pending_check: PendingCheck | None = None
        # no further collective can be matched: every process has raised, or a collective itself has failed
        self.done = False

    def __enter__(self) -> Self:
        # the backward passes of sharded parameters contain collectives, so that whoever fails before them must be able
        # to tell the others before theirs
        if self.known_names.all is not None and not self.reducer.placement.sharded:
            self._begin(self.known_names.all, self.known_names.here)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not self.done:
            self._abort(error)

    def average(self, local: Gradients) -> list[Row]:
        """The averaged rows of all losses.

        Raises:
            RankMismatchError: the processes were given different losses, or another one failed.
            ValueError: no process has one of the losses.
        """
        if self.names is None:
            known = self.known_names if self.known_names.all is not None else RowNames(local.names, local.names)
            self._begin(known.all or (), known.here)
        with closing(local.iterate()) as rows:  # also when it is left early: the hook engine then restores .grad
            for name, row in zip(local.names, rows, strict=True):
                self._reduce_up_to(name, row)
        masks = self._finish(None)
        reduced = [self.reducer.wait(row, mask) for row, mask in zip(self.pending, masks, strict=True)]
        for name, row in zip(self.names or (), reduced, strict=True):
            if all(t is None for t in row):
                raise ValueError(f"the loss {name!r} is None on all {self.check.size} processes")
        return reduced

    def _begin(self, names: tuple[str, ...], here: tuple[str, ...]) -> None:
        placement = self.reducer.placement
        facts = {
            "losses, in one order": str(list(names)),
            "parameters": placement.text,
            "call and settings": self.describe(),
        }
        if placement.sharded:
            facts["losses that are not None (a sharded parameter needs every process in every backward)"] = str(here)
        self.names = names
        self.pending_check = self.check.start(facts)
        if placement.sharded:  # whose backward passes contain collectives of their own
            self._wait_for_check()

    def _reduce_up_to(self, name: str, row: Row) -> None:
        """Reduce the row of a loss, after zeros for the losses before it that this process lacks."""
        assert self.names is not None
        self._wait_for_check()
        while self.names[len(self.pending)] != name:
            self._start_reduce([])
        self._start_reduce(row)

    def _start_reduce(self, row: Row) -> None:
        number = len(self.pending)
        try:
            if self.pending:
                self.reducer.finish_shard(self.pending[-1])
            if self.unsynced:
                row = _add_unsynced(self.unsynced[number], row)
            self.pending.append(self.reducer.start_reduce(row))
        except BaseException:
            self.done = True
            raise

    def _finish(self, error: Exception | None) -> list[list[bool]]:
        assert self.names is not None
        self._wait_for_check()
        while len(self.pending) < len(self.names):
            self._start_reduce([])
        self.done = True
        return self.check.union([row.mask for row in self.pending], error)

    def _abort(self, error: Exception) -> None:
        """Take part in the collectives that the others wait for, and tell them."""
        if self.names is not None:
            self._finish(error)
            return
        self.pending_check = self.check.start({}, error)
        self._wait_for_check()

    def _wait_for_check(self) -> None:
        pending, self.pending_check = self.pending_check, None
        if pending is not None:
            try:
                pending.wait()
            except BaseException:
                self.done = True
                raise


def _add_unsynced(unsynced: Row, row: Row) -> Row:
    return added([unsynced, [*row, *[None] * (len(unsynced) - len(row))]])  # parameters may have been frozen since


def _reduce_scatter(flat: Tensor, size: int, group: ProcessGroup) -> PendingBucket:
    if f"{flat.device.type}:gloo" in distributed.get_backend_config(group).split(","):
        # gloo's reduce-scatter is an all-reduce of which most is thrown away: twice the bytes
        received = torch.empty_like(flat)
        return PendingBucket(flat, received, distributed.all_to_all_single(received, flat, group=group, async_op=True))
    reduce_scatter = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor
    shard = flat.new_empty(flat.numel() // size)
    return PendingBucket(flat, shard, reduce_scatter(shard, flat, group=group, async_op=True))


def _free(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)
