"""MicroBatch: what one call of `backward` was given, and what it adds to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ..contract.rule_check import check_ranges
from ..distributed.communicator import Communicator
from ..gradients.accumulation import AccumulatedGradients, check_numbers
from ..gradients.losses import Losses
from ..gradients.missing_losses import RankLosses
from ..gradients.results import Gradients
from ..linalg.rows import Row
from ..rule import State
from .blocks import block_of_each
from .settings import Settings
from .state_names import remembered_order

__all__ = ["MicroBatch"]


@dataclass(frozen=True)
class MicroBatch:
    """What one call of `backward` was given, and what it adds to.

    Args:
        losses: as they were given.
        params: the parameters that require a gradient now.
        signals: name -> value.
        scale: 0-dim, what the gradients are multiplied by; None for 1.
        retain_graph: keep the graphs for another backward pass.
        joined: whether it came through `join`.
        caller: what was called, for errors to name.
        settings: how steps are to be taken.
        communicator: to the processes that take the step together.
        param_groups: of the base optimizer.
        saved: what the rule remembers.
        accumulated: averaged rows of the micro-batches before; None if this is the first.
        unsynced: rows of micro-batches before that were not averaged over the processes yet; None without any.
        names: of all losses, where some of them are not due in this step; else empty.
        base_state: of the base optimizer, where averages of gradients lie.
    """

    losses: Losses
    params: list[Tensor]
    signals: Mapping[str, Tensor | float]
    scale: Tensor | None
    retain_graph: bool
    joined: bool
    caller: str
    settings: Settings
    communicator: Communicator
    param_groups: list[dict[str, Any]]
    saved: State
    accumulated: AccumulatedGradients | None
    unsynced: AccumulatedGradients | None
    names: tuple[str, ...] = ()
    base_state: Mapping[Any, Any] = field(default_factory=dict)

    @property
    def adds_up(self) -> bool:
        """Whether another micro-batch may be added to this one."""
        return self.settings.adds_up(self.joined)

    @cached_property
    def in_order(self) -> Losses:
        """The losses in the order of the rows; one function as it is."""
        if not isinstance(self.losses, Mapping):
            return self.losses
        return {name: self.losses[name] for name in self.ordered(self.losses)}  # type: ignore[return-value]

    @cached_property
    def on_this_rank(self) -> RankLosses:
        """The losses, in that order, and which of them this process has."""
        return self.communicator.losses_on_this_rank(self.in_order)

    @property
    def all_names(self) -> Collection[str]:
        """The names of all losses, in the order that a state is kept for, if some are not due; else nothing."""
        before = remembered_order(self.names, self.saved) if self.names else None
        return self.names if before is None else before

    def ordered(self, names: Collection[str]) -> Collection[str]:
        """The names in the order of the rows that are added to, or that a state is kept for.

        Sums and states are by position, a mapping's order may be any.
        """
        earlier = self.accumulated or self.unsynced
        before = remembered_order(names, self.saved) if earlier is None else earlier.names
        return names if before is None or set(names) != set(before) else before

    def averaged_values(self, values: Gradients) -> AccumulatedGradients:
        """Losses and signals of this micro-batch and of the unsynced ones, averaged over the processes; no rows."""
        new = self.accumulated_of(replace(values, rows=[]))
        if self.unsynced is not None:
            new = replace(self.unsynced, rows=[]).add(new)
        return self.communicator.average(new)

    def accumulated_of(self, local: Gradients) -> AccumulatedGradients:
        """This micro-batch by itself."""
        return AccumulatedGradients.from_micro_batch(local, self.params, self.signals, self.scale, self.joined)

    def unsynced_rows(self) -> tuple[list[Tensor], list[Row]]:
        """The parameters and those that only unsynced rows refer to, and the unsynced rows in that order."""
        return (self.params, []) if self.unsynced is None else self.unsynced.aligned_to(self.params)

    def with_rows(self, values: AccumulatedGradients, rows: list[Row], params: list[Tensor]) -> AccumulatedGradients:
        """Everything since ``zero_grad``: averaged values and rows of this micro-batch, added to those before."""
        new = replace(values, params=params, rows=rows)
        return new if self.accumulated is None else self.accumulated.add(new)

    def blocks_of(self, params: list[Tensor]) -> list[str | None] | None:
        """The block of each parameter; None for a single combination."""
        if self.settings.blocks is None:
            return None
        group = {p: i for i, members in enumerate(self.param_groups) for p in members["params"]}
        groups, names = [group[p] for p in params], self.settings.names_of(params)
        return block_of_each(self.settings.blocks, params, groups, names)

    def check_signals(self) -> None:
        """Raise `TypeError` unless the rule gets the signals that it needs, and no others, all of them numbers."""
        self.settings.combiner.signals.check(self.signals, self.caller)
        check_numbers(self.signals)
        check_ranges(self.settings.combiner.rule, self.signals)

    def describe(self) -> str:
        """What all processes must have in common beside the names of the losses."""
        signals = sorted(self.signals)
        sizes = {name: shape for name in signals if (shape := tuple(getattr(self.signals[name], "shape", ())))}
        of_shape = f" of shapes {sizes}" if sizes else ""
        of_all = f" of {sorted(self.names)}" if self.names else ""
        return f"{self.caller} with the signals {signals}{of_shape}{of_all}; {self.settings.described}"

    def describe_with(self, names: Iterable[str]) -> str:
        """The same with the names of the losses."""
        return f"{self.describe()} of the losses {list(names)}"
