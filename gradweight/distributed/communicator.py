"""Communicator: what a step asks of the processes that take it together; in a single process, no-ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from ..gradients.accumulation import AccumulatedGradients
from ..gradients.losses import Losses
from ..gradients.missing_losses import RankLosses
from ..gradients.results import Gradients
from ..linalg.buffers import in_place_buffers, kept_buffers
from ..linalg.rows import Row
from .sums import ReplicatedSums, RowSums

__all__ = ["AveragedRows", "Communicator", "RowNames"]

T = TypeVar("T")


@dataclass(frozen=True)
class RowNames:
    """The names of all rows, and of those that this process computes; None where only the backward passes tell."""

    all: tuple[str, ...] | None
    here: tuple[str, ...]


class AveragedRows:
    """The rows of one `backward`, averaged over the processes; of a single process, its own.

    Args:
        names: of the rows, and which of them there are.
        params: the parameters that the rows refer to.
    """

    def __init__(self, names: RowNames, params: list[Tensor]) -> None:
        self.row_names = names
        self.params = params

    def average(self, local: Gradients) -> list[Row]:
        """The rows of all losses, those that this process lacks too.

        Args:
            local: of those that it has; each row is taken as soon as its backward pass is done.
        """
        rows = list(local.rows)
        if self.row_names.all is None or len(self.row_names.all) == len(rows):
            return rows
        found = dict(zip(local.names, rows, strict=True))
        nothing: Row = [None] * len(self.params)
        return [found.get(name, nothing) for name in self.row_names.all]


class Communicator:
    """A single process.

    Args:
        has_group: whether a default process group existed when this was found out; that may change.
    """

    size = 1

    def __init__(self, has_group: bool = False) -> None:
        self.has_group = has_group
        self._kept: dict[Tensor, Tensor] = {}

    # ---- on the hosts

    def losses_on_this_rank(self, losses: Losses) -> RankLosses:
        """The losses, and which of them this micro-batch has: all that are not None; None of all is an error later."""
        if not isinstance(losses, Mapping):
            return RankLosses(losses, None)
        missing = [name for name, loss in losses.items() if loss is None]
        if missing and len(missing) < len(losses):
            return RankLosses.of(losses)
        return RankLosses(losses, tuple(losses))

    def all_or_none_raise(self, function: Callable[[], T], describe: Callable[[T], str]) -> T:
        """What ``function`` returns; if it raises on one process, all raise.

        Args:
            function: raises after its collectives only, if it contains any.
            describe: what must be the same on all processes, from what ``function`` returned.
        """
        return function()

    def telling_errors(self) -> AbstractContextManager[object]:
        """A context in which an error is told to the others, who are about to compare what they do."""
        return nullcontext()

    def check_micro_batch(self, before: list[Tensor], now: list[Tensor]) -> None:
        """Raise `ValueError` if rows over these parameters cannot be added up; aligned by parameter, they can."""

    def local_parts(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """What this process holds of each: the shard of one that is sharded, else the tensor itself."""
        return list(tensors)

    # ---- collectives

    def averaged_rows(
        self, names: RowNames, params: list[Tensor], unsynced: Sequence[Row], describe: Callable[[], str]
    ) -> AbstractContextManager[AveragedRows]:
        """A context in which rows are computed and averaged; an exception in it is told to the other processes.

        Args:
            names: of the rows, and which of them this process computes.
            params: the parameters that the rows refer to.
            unsynced: rows of earlier micro-batches that were not averaged yet, added to the new ones.
            describe: what must be the same on all processes beside names and parameters.
        """
        return nullcontext(AveragedRows(names, params))

    def average(self, accumulated: AccumulatedGradients) -> AccumulatedGradients:
        """The same with losses and signals averaged over the processes."""
        return accumulated

    def sums(self, params: list[Tensor]) -> RowSums:
        """How sums over all entries of an averaged row are formed."""
        return ReplicatedSums(params)

    def sums_over_samples(self, features: list[Tensor]) -> RowSums:
        """How sums over the samples of all processes are formed, from gradients at activations."""
        return ReplicatedSums(features)

    # ---- the direction

    def out_buffers(self, rows: Sequence[Row], params: list[Tensor], in_place: bool) -> list[Tensor | None]:
        """Where this process writes its part of the direction; None where no loss reaches the parameter."""
        return in_place_buffers(rows, params) if in_place else kept_buffers(rows, params, self._kept)

    def all_gather_direction(self, parts: Sequence[Tensor | None], params: list[Tensor]) -> list[Tensor | None]:
        """The direction as ``.grad`` needs it: whole, or sharded as the parameter is."""
        return list(parts)
