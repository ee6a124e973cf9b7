"""Processes: those of a group that take a step together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, Work

from ..gradients.accumulation import Accumulated
from ..gradients.missing_losses import present, with_absent
from ..gradients.results import Gradients
from ..linalg.buffers import kept_buffers
from ..linalg.rows import Row
from .agreement import Agreement
from .exchange import Exchange, Road
from .local import Compute
from .placement import Placement, Reduce, placement_of
from .sharding import whole
from .sums import OfParts, OfSamples, OfWholes, Sums

__all__ = ["Processes"]

T = TypeVar("T")


class Processes:
    """The processes of a group that follow one direction.

    Args:
        group: the processes, each with the same parameters.
        reduce: "all" or "scatter".
    """

    def __init__(self, group: ProcessGroup, reduce: Reduce) -> None:
        self.group = group
        self.reduce = reduce
        self.grouped = True
        self.size = distributed.get_world_size(group)
        self.rank = distributed.get_rank(group)
        self.agreement = Agreement(group)
        self._placement: Placement | None = None
        self._kept: dict[Tensor, Tensor] = {}
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

    # ---- rows

    def together(self, function: Callable[[], T], describe: Callable[[T], str]) -> T:
        """What ``function`` returns; if it fails on one process, all of them raise.

        Args:
            function: does nothing that the others wait for.
            describe: what must be the same on all processes.

        Raises:
            Disagreement: another process failed, or was called otherwise.
        """
        try:
            result = function()
        except Exception as error:
            self.agreement.ask({}, error).settle()
            raise
        self.agreement.ask({"call and settings": describe(result)}).settle()
        return result

    def gradients(
        self, losses: Any, params: list[Tensor], earlier: Sequence[Row], call: Callable[[], str], compute: Compute
    ) -> Gradients:
        """What ``compute`` returns on this process, averaged over all.

        Args:
            losses: as `gradweight.gradients.loss_gradients` takes them; of a mapping of tensors some may be None,
                which is a loss that this process does not have.
            params: what to differentiate by.
            earlier: rows of this process that travel together with the new ones.
            call: tells what must be the same on all processes besides the names and the parameters.
            compute: called with the losses of this process and a function that each new row is to be handed to, or
                None for rows that are to be returned.

        Raises:
            Disagreement: the processes were given different losses, or another one failed; nothing has been changed.
        """
        exchange = Exchange(self.agreement, Road(self.group, self.reduce, self.placement(params)), earlier, call())
        try:
            mine = present(losses)
            if mine is None:
                found = compute(losses, None)
                exchange.open(found.names, found.names)
                for name, row in zip(found.names, found.rows, strict=True):
                    exchange.add(name, row)
            else:
                exchange.open(tuple(losses), tuple(mine))
                found = compute(mine, exchange.add) if mine else Gradients((), [], [])
        except Exception as error:
            exchange.fail(error)
            raise
        rows = exchange.close()
        return with_absent(dict(zip(found.names, found.losses, strict=True)), exchange.names, params, rows)

    def local_gradients(self, losses: Any, params: list[Tensor], compute: Compute) -> Gradients:
        """The gradients of this process, None where it does not have a loss; nothing is exchanged."""
        mine = present(losses)
        if mine is None:
            return compute(losses, None)
        found = compute(mine, None) if mine else Gradients((), [], [])
        rows = dict(zip(found.names, found.rows, strict=True))
        nothing: Row = [None] * len(params)
        values = dict(zip(found.names, found.losses, strict=True))
        return with_absent(values, tuple(losses), params, [rows.get(name, nothing) for name in losses])

    def average(self, accumulated: Accumulated) -> Accumulated:
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

    # ---- sums over what each process holds

    def sums(self, params: list[Tensor]) -> Sums:
        """How sums over all entries of an averaged row are formed."""
        placement = self.placement(params)
        whole = all(copies == self.size for copies in placement.copies)
        return OfWholes(params) if whole else OfParts(self.group, params, placement.copies, placement.offsets)

    def sums_of_samples(self, features: list[Tensor]) -> Sums:
        """How sums over the samples of all processes are formed, from gradients at activations."""
        return OfSamples(self.group, features)

    # ---- the direction

    def targets(self, rows: Sequence[Row], params: list[Tensor], in_place: bool) -> list[Tensor | None]:
        """Where to write this process's part of the direction; None where no loss reaches the parameter."""
        placement = self.placement(params)
        if in_place and self.reduce == "all" and not placement.sharded:  # the rows are parts of our own buffers
            return [next((t for t in tensors if t is not None), None) for tensors in zip(*rows, strict=True)]
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

    def gathered(self, targets: Sequence[Tensor | None], params: list[Tensor]) -> list[Tensor | None]:
        """The direction as ``.grad`` needs it: whole, or sharded as the parameter is."""
        placement = self.placement(params)
        grads = list(targets)
        for i in placement.sharded:
            target = targets[i]
            grads[i] = None if target is None else whole(target, params[i])
        if self.reduce == "scatter":
            works = [_all_gather(flat, shard, self.group) for shard, flat in self._directions]
            for work, bucket, (_, flat) in zip(works, placement.buckets, self._directions, strict=True):
                if work is not None:
                    work.wait()
                for i, view in zip(bucket.indices, bucket.views(flat), strict=True):
                    grads[i] = None if targets[i] is None else view
        return grads


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b


def _all_gather(flat: Tensor, shard: Tensor, group: ProcessGroup) -> Work | None:
    all_gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    return all_gather(flat, shard, group=group, async_op=True)  # type: ignore[no-any-return]
