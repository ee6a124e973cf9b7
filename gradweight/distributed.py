"""Distributed: the gradient of each loss averaged over processes, so that all of them follow one direction.

Data-parallel wrappers average what one ``.backward()`` leaves in ``.grad``; the gradients of single losses pass them
by. Here each row is averaged as soon as its loss has been walked back, while the next loss is:

- ``reduce="all"``: all-reduced in flat buffers. Every process holds all rows: 2mk elements on the wire.
- ``reduce="scatter"``: reduce-scattered, so that a process holds 1/n of every row, combines that part, and the
  direction is all-gathered: (m + 1)k elements on the wire, mk/n in memory. Inner products are summed over processes.
- sharded (DTensor) parameters arrive averaged and sharded by FSDP2 itself: only inner products are summed.

(k parameters, m losses, n processes; an all-reduce moves 2k(n - 1)/n, the other two k(n - 1)/n each.)

What the hosts have to agree on, such as names, goes over CPU tensors, so that no device is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, Work, distributed_c10d

from .accumulation import Accumulated
from .agreement import Agreement, Asked
from .buckets import Bucket, buckets_of
from .gradients import Gradients
from .one_process import Compute, Exchanging, OneProcess
from .rows import Row, added, kept_targets
from .sharding import first_coordinate, is_sharded, local, mesh_group, shards, whole
from .sums import OfParts, OfSamples, OfWholes, Sums

__all__ = ["Group", "Processes", "Reduce", "check_group", "processes_of"]

Reduce: TypeAlias = Literal["all", "scatter"]

T = TypeVar("T")


class Group:
    """A process group that survives pickling and deepcopy, by its name."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def __reduce__(self) -> tuple[Any, ...]:
        return _group_named, (self.group.group_name,)

    def __repr__(self) -> str:
        return f"process group {self.group.group_name!r} of {distributed.get_world_size(self.group)}"


def _group_named(name: str) -> Group:
    return Group(distributed_c10d._resolve_process_group(name))  # type: ignore[attr-defined, arg-type]


def check_group(process_group: ProcessGroup | bool | None, reduce: str) -> Group | bool | None:
    """The argument ``process_group`` as it is kept.

    Raises:
        TypeError: it is no process group, nor False or None.
        ValueError: ``reduce`` is no way of reducing.
    """
    if reduce not in ("all", "scatter"):
        raise ValueError(f"reduce must be 'all' or 'scatter'; got {reduce!r}")
    if process_group is None or process_group is False:
        return process_group
    if not (distributed.is_available() and isinstance(process_group, ProcessGroup)):
        raise TypeError(
            "process_group must be a torch.distributed process group, such as torch.distributed.group.WORLD after "
            f"init_process_group(), or False, or None; got {process_group!r}"
        )
    return Group(process_group)


def processes_of(process_group: Group | bool | None, reduce: Reduce, params: Sequence[Tensor]) -> Exchanging:
    """The processes that take a step together.

    Raises:
        RuntimeError: there are several, and parameters that each holds as a whole, but it was not said which
            processes are to average their gradients.
        ValueError: ``process_group`` is False and parameters are sharded.
    """
    if not _initialized():
        return OneProcess(grouped=False)
    sharded = [p for p in params if is_sharded(p)]
    if process_group is False:
        if any(shards(p) > 1 for p in sharded):
            raise ValueError(
                "process_group=False says that every process trains a model of its own; these parameters are sharded "
                "over several"
            )
        return OneProcess(grouped=True)
    if isinstance(process_group, Group):
        group = process_group.group
    elif len(sharded) == len(params):
        group = mesh_group(sharded)
    elif distributed.get_world_size() > 1:
        raise RuntimeError(
            f"{distributed.get_world_size()} processes are in the default process group: pass "
            "process_group=torch.distributed.group.WORLD (or the group of data-parallel processes) to "
            "MultiObjectiveGradient to average each loss's gradient over them, or process_group=False if every "
            "process trains a model of its own"
        )
    else:
        return OneProcess(grouped=True)
    return (
        OneProcess(grouped=True) if distributed.get_world_size(group) == 1 and not sharded else Processes(group, reduce)
    )


def stays(processes: Exchanging) -> bool:
    """Whether nothing has happened that would make `processes_of` answer otherwise."""
    return isinstance(processes, Processes) or processes.grouped == _initialized()


def _initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@dataclass(frozen=True)
class Layout:
    """Where the parts of a row lie, for one list of parameters.

    Args:
        params: the parameters.
        local: what this process holds of each.
        sharded: which of them are sharded already.
        buckets: the others.
        copies: how many processes hold the same part, for each parameter.
        offsets: how many coordinates of all parameters come before each part.
        text: what must be the same on all processes.
    """

    params: list[Tensor]
    local: list[Tensor]
    sharded: list[int]
    buckets: list[Bucket]
    copies: list[int]
    offsets: list[int]
    text: str


@dataclass
class Travelling:
    """One row on its way."""

    mask: list[bool]
    local: dict[int, Tensor]
    sent: list[tuple[Tensor, Work | None]]


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
        self._layout: Layout | None = None
        self._kept: dict[Tensor, Tensor] = {}
        self._directions: list[tuple[Tensor, Tensor]] = []

    def layout(self, params: list[Tensor]) -> Layout:
        """The layout for these parameters; the one before is kept as long as they stay the same."""
        before = self._layout
        if before is not None and len(before.params) == len(params) and all(map(_same, before.params, params)):
            return before
        sharded = [i for i, p in enumerate(params) if is_sharded(p)]
        plain = [i for i, p in enumerate(params) if not is_sharded(p)]
        copies = [self.size if self.reduce == "all" else 1] * len(params)
        for i in sharded:
            copies[i] = self.size // shards(params[i])
        text = f"parameters ({len(params)} of shapes {[tuple(p.shape) for p in params]})"
        buckets = buckets_of(params, plain, self.size)
        offsets = list(accumulate((p.numel() for p in params), initial=0))
        for i in sharded:
            offsets[i] += first_coordinate(params[i])
        if self.reduce == "scatter":
            for bucket in buckets:
                for i, skipped in zip(bucket.indices, bucket.skipped(self.rank, self.size), strict=True):
                    offsets[i] += skipped
        self._layout = Layout(list(params), [local(p) for p in params], sharded, buckets, copies, offsets, text)
        self._kept = {}
        self._directions = []
        return self._layout

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
            self.agreement.ask({"kind of call": ""}, error).settle()
            raise
        self.agreement.ask({"kind of call": describe(result)}).settle()
        return result

    def gradients(
        self, losses: Any, params: list[Tensor], earlier: Sequence[Row], call: str, compute: Compute
    ) -> Gradients:
        """What ``compute`` returns on this process, averaged over all.

        Args:
            losses: as `gradweight.gradients.loss_gradients` takes them; of a mapping of tensors some may be None,
                which is a loss that this process does not have.
            params: what to differentiate by.
            earlier: rows of this process that travel together with the new ones.
            call: what must be the same on all processes besides the names and the parameters.
            compute: called with the losses of this process and a function that each new row is to be handed to, or
                None for rows that are to be returned.

        Raises:
            Disagreement: the processes were given different losses, or another one failed; nothing has been changed.
        """
        exchange = Exchange(self, self.layout(params), earlier, call)
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
        values = [accumulated.losses, *(accumulated.signals[name].reshape(1) for name in names)]
        # in one dtype, whatever that of the losses which this process happens to have
        together = torch.cat([value.to(accumulated.losses.device, torch.float64) for value in values])
        distributed.all_reduce(together, group=self.group)
        mean = (together / self.size).to(accumulated.losses)
        m = len(accumulated.losses)
        signals = dict(zip(names, mean[m:].unbind(), strict=True))
        return replace(accumulated, losses=mean[:m], signals=signals)

    # ---- sums over what each process holds

    def sums(self, params: list[Tensor]) -> Sums:
        """How sums over all entries of an averaged row are formed."""
        layout = self.layout(params)
        whole = all(copies == self.size for copies in layout.copies)
        return OfWholes(params) if whole else OfParts(self.group, params, layout.copies, layout.offsets)

    def sums_of_samples(self, features: list[Tensor]) -> Sums:
        """How sums over the samples of all processes are formed, from gradients at activations."""
        return OfSamples(self.group, features)

    # ---- the direction

    def targets(self, rows: Sequence[Row], params: list[Tensor], in_place: bool) -> list[Tensor | None]:
        """Where to write this process's part of the direction; None where no loss reaches the parameter."""
        layout = self.layout(params)
        if in_place and self.reduce == "all" and not layout.sharded:  # the rows are parts of our own buffers
            return [next((t for t in tensors if t is not None), None) for tensors in zip(*rows, strict=True)]
        if self.reduce == "all":
            return kept_targets(rows, layout.local, self._kept)
        targets: list[Tensor | None] = [None] * len(params)
        for i in layout.sharded:
            [targets[i]] = kept_targets([[row[i]] for row in rows], [layout.local[i]], self._kept)
        if not self._directions:
            self._directions = [(bucket.empty(self.size), bucket.empty()) for bucket in layout.buckets]
        for bucket, (shard, _) in zip(layout.buckets, self._directions, strict=True):
            for i, piece in zip(bucket.indices, bucket.pieces(shard, self.rank), strict=True):
                targets[i] = None if all(row[i] is None for row in rows) else piece
        return targets

    def gathered(self, targets: Sequence[Tensor | None], params: list[Tensor]) -> list[Tensor | None]:
        """The direction as ``.grad`` needs it: whole, or sharded as the parameter is."""
        layout = self.layout(params)
        grads = list(targets)
        for i in layout.sharded:
            target = targets[i]
            grads[i] = None if target is None else whole(target, params[i])
        if self.reduce == "scatter":
            works = [_all_gather(flat, shard, self.group) for shard, flat in self._directions]
            for work, bucket, (_, flat) in zip(works, layout.buckets, self._directions, strict=True):
                if work is not None:
                    work.wait()
                for i, view in zip(bucket.indices, bucket.views(flat), strict=True):
                    grads[i] = None if targets[i] is None else view
        return grads

    # ---- one row

    def send(self, row: Row, layout: Layout) -> Travelling:
        """Start to average a row, whose tensors are used up."""
        mask = [t is not None for t in row] if row else [False] * len(layout.params)
        here = {i: local(t, layout.params[i]) for i in layout.sharded if row and (t := row[i]) is not None}
        sent = []
        for bucket in layout.buckets:
            flat = bucket.filled(row).div_(self.size)
            if self.reduce == "all":
                sent.append((flat, distributed.all_reduce(flat, group=self.group, async_op=True)))
            else:
                sent.append(_reduce_scatter(flat, bucket.empty(self.size), self.group))
        return Travelling(mask, here, sent)

    def received(self, travelling: Travelling, mask: Sequence[bool], layout: Layout) -> Row:
        """The averaged row: None where no process reached the parameter."""
        row: Row = [None] * len(layout.params)
        for i, tensor in travelling.local.items():
            row[i] = tensor
        for bucket, (flat, work) in zip(layout.buckets, travelling.sent, strict=True):
            if work is not None:
                work.wait()
            if self.reduce == "all":
                parts = bucket.views(flat)
            else:
                length = bucket.length // self.size
                shard = flat if flat.numel() == length else flat.view(self.size, length).sum(0)
                parts = bucket.pieces(shard, self.rank)
            for i, part in zip(bucket.indices, parts, strict=True):
                row[i] = part if mask[i] else None
        return row


class Exchange:
    """The rows of one `backward` on their way: opened, one row added after the other, closed.

    A process that fails on the way sends zeros for what is left, so that no other waits for it, and says so when the
    exchange is closed.
    """

    def __init__(self, processes: Processes, layout: Layout, earlier: Sequence[Row], call: str) -> None:
        self.processes = processes
        self.layout = layout
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
            "parameters": self.layout.text,
            "kind of call": self.call,
        }
        if self.layout.sharded:
            facts["losses that are not None (a sharded parameter needs every process in every backward)"] = str(mine)
        self.opened = True
        self.asked = self.processes.agreement.ask(facts, error)
        if self.layout.sharded:  # whose backward already exchanges gradients
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
        rows = [self.processes.received(t, mask, self.layout) for t, mask in zip(self.travelling, masks, strict=True)]
        for name, row in zip(self.names, rows, strict=True):
            if all(t is None for t in row):
                raise ValueError(f"the loss {name!r} is None on all {self.processes.size} processes")
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
        return self.processes.agreement.union([t.mask for t in self.travelling], error)

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
            if self.earlier:
                row = _plus(self.earlier[number], row)
            self.travelling.append(self.processes.send(row, self.layout))
        except BaseException:
            self.broken = True
            raise


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


def _plus(earlier: Row, row: Row) -> Row:
    return added([earlier, [*row, *[None] * (len(earlier) - len(row))]])  # parameters may have been frozen since


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b


def _reduce_scatter(flat: Tensor, shard: Tensor, group: ProcessGroup) -> tuple[Tensor, Work | None]:
    if f"{flat.device.type}:gloo" in distributed.get_backend_config(group).split(","):
        # gloo's reduce-scatter is an all-reduce of which most is thrown away: twice the bytes
        received = torch.empty_like(flat)
        return received, distributed.all_to_all_single(received, flat, group=group, async_op=True)
    reduce_scatter = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor
    return shard, reduce_scatter(shard, flat, group=group, async_op=True)


def _all_gather(flat: Tensor, shard: Tensor, group: ProcessGroup) -> Work | None:
    all_gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    return all_gather(flat, shard, group=group, async_op=True)  # type: ignore[no-any-return]
