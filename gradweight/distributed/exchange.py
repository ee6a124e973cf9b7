"""Exchange: the rows of one `backward`, on their way between processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, Work

from ..linalg.rows import Row, added
from .agreement import Agreement, Asked
from .buckets import Bucket
from .placement import Placement, Reduce
from .sharding import local

__all__ = ["Exchange", "Road"]


@dataclass
class Parcel:
    """One bucket of a row on its way: what is sent, where the answer arrives, and what tells when it has."""

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
class Travelling:
    """One row on its way."""

    mask: list[bool]
    local: dict[int, Tensor]
    parcels: list[Parcel]


class Road:
    """How a row gets to the other processes, and its average, or this process's part of that, back.

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

    def send(self, row: Row) -> Travelling:
        """Start to average a row, whose tensors are used up."""
        mask = [t is not None for t in row] if row else [False] * len(self.placement.params)
        here = {
            i: local(t, self.placement.params[i]) for i in self.placement.sharded if row and (t := row[i]) is not None
        }
        parcels = []
        for bucket in self.placement.buckets:
            flat = bucket.filled(row).div_(self.size)
            if self.reduce == "all":
                parcels.append(Parcel(flat, flat, distributed.all_reduce(flat, group=self.group, async_op=True)))
            else:
                parcels.append(_reduce_scatter(flat, self.size, self.group))
        return Travelling(mask, here, parcels)

    def land(self, travelling: Travelling) -> None:
        """Wait for a row of which only a part is kept, so that the whole need not be."""
        if self.reduce == "scatter":
            for bucket, parcel in zip(self.placement.buckets, travelling.parcels, strict=True):
                parcel.received = self._shard(bucket, parcel)

    def received(self, travelling: Travelling, mask: Sequence[bool]) -> Row:
        """The averaged row: None where no process reached the parameter."""
        row: Row = [None] * len(self.placement.params)
        for i, tensor in travelling.local.items():
            row[i] = tensor
        for bucket, parcel in zip(self.placement.buckets, travelling.parcels, strict=True):
            if self.reduce == "all":
                parts = bucket.views(parcel.wait())
            else:
                parts = bucket.pieces(self._shard(bucket, parcel), self.rank)
            for i, part in zip(bucket.indices, parts, strict=True):
                row[i] = part if mask[i] else None
        return row

    def _shard(self, bucket: Bucket, parcel: Parcel) -> Tensor:
        received, length = parcel.wait(), bucket.length // self.size
        if received.numel() == length:
            return received
        shard = received.view(self.size, length).sum(0)
        _free(received)
        return shard


class Exchange:
    """The rows of one `backward` on their way: opened, one row added after the other, closed.

    A process that fails on the way sends zeros for what is left, so that no other waits for it, and says so when the
    exchange is closed.

    Args:
        agreement: what the hosts settle.
        road: how a row gets to the other processes.
        earlier: rows of this process that travel together with the new ones.
        call: what must be the same on all processes besides names and parameters.
    """

    def __init__(self, agreement: Agreement, road: Road, earlier: Sequence[Row], call: str) -> None:
        self.agreement = agreement
        self.road = road
        self.earlier = list(earlier)
        self.call = call
        self.names: tuple[str, ...] = ()
        self.travelling: list[Travelling] = []
        self.asked: Asked | None = None
        self.opened = False
        self.broken = False

    def open(self, names: tuple[str, ...], mine: tuple[str, ...], error: Exception | None = None) -> None:
        """Say which losses there are, and which of them this process has."""
        self.names = names
        facts = {
            "losses, in one order": str(list(names)),
            "parameters": self.road.placement.text,
            "call and settings": self.call,
        }
        if self.road.placement.sharded:
            facts["losses that are not None (a sharded parameter needs every process in every backward)"] = str(mine)
        self.opened = True
        self.asked = self.agreement.ask(facts, error)
        if self.road.placement.sharded:  # whose backward already exchanges gradients
            self._settle()

    def add(self, name: str, row: Row) -> Row:
        """Send the row of one loss, and zeros for those before it that this process does not have."""
        self._settle()
        while self.names[len(self.travelling)] != name:
            self._send([])
        self._send(row)
        return []

    def close(self) -> list[Row]:
        """Wait for all rows.

        Raises:
            Disagreement: another process failed.
            ValueError: no process has one of the losses.
        """
        masks = self._finish(None)
        rows = [self.road.received(t, mask) for t, mask in zip(self.travelling, masks, strict=True)]
        for name, row in zip(self.names, rows, strict=True):
            if all(t is None for t in row):
                raise ValueError(f"the loss {name!r} is None on all {self.agreement.size} processes")
        return rows

    def fail(self, error: Exception) -> None:
        """Take part in what the others wait for, and let them know."""
        if self.broken:
            return
        if not self.opened:
            self.open((), (), error)
            self._settle()
        else:
            self._finish(error)

    def _finish(self, error: Exception | None) -> list[list[bool]]:
        self._settle()
        while len(self.travelling) < len(self.names):
            self._send([])
        return self.agreement.union([t.mask for t in self.travelling], error)

    def _settle(self) -> None:
        asked, self.asked = self.asked, None
        if asked is not None:
            try:
                asked.settle()
            except BaseException:
                self.broken = True
                raise

    def _send(self, row: Row) -> None:
        number = len(self.travelling)
        try:
            if self.travelling:
                self.road.land(self.travelling[-1])
            if self.earlier:
                row = _plus(self.earlier[number], row)
            self.travelling.append(self.road.send(row))
        except BaseException:
            self.broken = True
            raise


def _plus(earlier: Row, row: Row) -> Row:
    return added([earlier, [*row, *[None] * (len(earlier) - len(row))]])  # parameters may have been frozen since


def _reduce_scatter(flat: Tensor, size: int, group: ProcessGroup) -> Parcel:
    if f"{flat.device.type}:gloo" in distributed.get_backend_config(group).split(","):
        # gloo's reduce-scatter is an all-reduce of which most is thrown away: twice the bytes
        received = torch.empty_like(flat)
        return Parcel(flat, received, distributed.all_to_all_single(received, flat, group=group, async_op=True))
    reduce_scatter = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor
    shard = flat.new_empty(flat.numel() // size)
    return Parcel(flat, shard, reduce_scatter(shard, flat, group=group, async_op=True))


def _free(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)
