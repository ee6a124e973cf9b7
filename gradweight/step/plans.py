"""Plans: what one `backward` differentiates, what the rule is shown, and what becomes of the rows.

Every plan takes the same way: local rows -> rows averaged over the processes -> added to those before -> combined.

- `PerLoss`: one row per loss, and the rule sees their Gram matrix.
- `WeightedSum`: the weights are known beforehand, from the losses alone or from an earlier step. The one row is the
  gradient of the weighted sum of all losses.
- `Averaged` (`gradweight.step.averages_plan`): as `PerLoss`, with averages over the steps in place of the rows.
- `ByStreamedGram` (`gradweight.step.streamed_plan`): the rule sees the Gram matrix of rows that never exist; then as
  `WeightedSum`.
- `AtRepresentation`: the rule sees the gradients at a shared tensor. The one row is the gradient of the trunk's
  direction and of all heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..combination import Combination
from ..distributed.communicator import RowNames
from ..gradients.accumulation import AccumulatedGradients
from ..gradients.engines import loss_gradients
from ..gradients.losses import check_losses, evaluate
from ..gradients.missing_losses import fill_missing_losses
from ..gradients.representation import Representation, at_representation
from ..gradients.results import Gradients
from ..gradients.weighted import SUM, weighted_gradient
from ..linalg.rows import Row, added
from ..rule import State
from .combiner import write_row
from .combiner_input import CombinerInput
from .micro_batch import MicroBatch
from .proposed_averages import ProposedAverages
from .refresh import weights_to_hold

__all__ = ["AtRepresentation", "Outcome", "PerLoss", "Plan", "WeightedSum"]


@dataclass(frozen=True)
class Outcome:
    """What a `backward` comes to, to be committed as a whole.

    Args:
        params: the parameters.
        parts: this process's part of the direction, one tensor per parameter; None where no loss reaches it.
        combination: what was seen and decided.
        rule_state: the entries of the rule's state that change if the step is taken.
        accumulated: what the next micro-batch adds to; None if there may be none.
        averages: what the averages of the gradients are then; None for a rule that asks for none.
    """

    params: list[Tensor]
    parts: list[Tensor | None]
    combination: Combination
    rule_state: State
    accumulated: AccumulatedGradients | None
    averages: ProposedAverages | None = None


class Plan(ABC):
    """What one `backward` does; see the module.

    Args:
        micro: what it was given.
    """

    def __init__(self, micro: MicroBatch) -> None:
        self.micro = micro

    def prepare(self) -> None:
        """What comes before the rows and is compared between the processes by itself: nothing."""
        return

    @abstractmethod
    def local_rows(self) -> Gradients:
        """The rows of this process, computed as they are taken."""

    @property
    def row_names(self) -> RowNames:
        """The names of the rows, as far as they are known before the backward passes: one row, here as elsewhere."""
        return RowNames((SUM,), (SUM,))

    @abstractmethod
    def unsynced(self, local: Gradients) -> AccumulatedGradients:
        """What is kept if the rows are not averaged yet."""

    @abstractmethod
    def combine(self, local: Gradients, rows: list[Row], params: list[Tensor]) -> Outcome:
        """The direction from the averaged rows. Raises after its collectives only."""

    def _out_buffers(self, accumulated: AccumulatedGradients) -> list[Tensor | None]:
        # a graph that is retained may hold the very tensors that it returned as gradients
        in_place = not self.micro.adds_up and not self.micro.retain_graph
        return self.micro.communicator.out_buffers(accumulated.rows, accumulated.params, in_place)


class PerLoss(Plan):
    """One row per loss, and the rule sees their Gram matrix."""

    def local_rows(self) -> Gradients:
        micro, settings = self.micro, self.micro.settings
        micro.check_signals()
        if micro.on_this_rank.none_here:
            return Gradients((), [], [])
        local = loss_gradients(
            micro.on_this_rank.here,
            micro.params,
            names=settings.names_of(micro.params),
            engine=settings.engine,
            scale=micro.scale,
            retain_graph=micro.retain_graph,
            auto=settings.auto,
        )
        return local.ordered(micro.ordered(local.names)) if callable(micro.losses) else local

    @property
    def row_names(self) -> RowNames:
        losses = self.micro.on_this_rank
        return RowNames(losses.names, losses.names_here)

    def unsynced(self, local: Gradients) -> AccumulatedGradients:
        found, filled = dict(zip(local.names, local.iterate(), strict=True)), self._filled(local)
        nothing: Row = [None] * len(self.micro.params)
        return self.micro.accumulated_of(replace(filled, rows=[found.get(name, nothing) for name in filled.names]))

    def accumulated(self, local: Gradients, rows: list[Row], params: list[Tensor]) -> AccumulatedGradients:
        """The averaged rows, with the losses and signals averaged likewise, added to those before."""
        return self.micro.with_rows(self.micro.averaged_values(self._filled(local)), rows, params)

    def combine(self, local: Gradients, rows: list[Row], params: list[Tensor]) -> Outcome:
        micro, settings = self.micro, self.micro.settings
        accumulated = self.accumulated(local, rows, params)
        out = self._out_buffers(accumulated)
        blocks = micro.blocks_of(accumulated.params)
        sums = micro.communicator.sums(accumulated.params)
        combination, state = settings.combine(CombinerInput(accumulated, blocks, micro.saved, out, sums))
        state |= weights_to_hold(
            accumulated.names, combination.weights, settings.refresh_every, micro.saved, found=True
        )
        return Outcome(accumulated.params, out, combination, state, accumulated)

    def _filled(self, local: Gradients) -> Gradients:
        values = dict(zip(local.names, local.losses, strict=True))
        return fill_missing_losses(values, self.micro.on_this_rank.in_order(local.names), self.micro.params)


class WeightedSum(Plan):
    """One row: the gradient of the weighted sum of all losses.

    Args:
        micro: what the `backward` was given.
        held: (m,) weights that were found before; None for a rule that finds them from the losses.
    """

    def __init__(self, micro: MicroBatch, held: Tensor | None) -> None:
        super().__init__(micro)
        self.held = held

    def prepare(self) -> None:
        micro = self.micro
        self.values, self.filled = micro.communicator.all_or_none_raise(
            self._evaluated, lambda found: micro.describe_with(found[1].names)
        )
        self.averaged = micro.averaged_values(self.filled)

    @property
    def row_names(self) -> RowNames:
        return RowNames((SUM,), (SUM,) if self.values else ())

    def _evaluated(self) -> tuple[dict[str, Tensor], Gradients]:
        micro, here = self.micro, self.micro.on_this_rank
        micro.check_signals()
        names = micro.settings.names_of(micro.params)
        values = {} if here.none_here else evaluate(here.here, micro.params, names)
        if callable(micro.losses):
            values = {name: values[name] for name in micro.ordered(values)}
        return values, fill_missing_losses(values, here.in_order(values), micro.params)

    def find_weights(self) -> None:
        """Find the weights, or take those that are held."""
        micro, combiner = self.micro, self.micro.settings.combiner
        if self.held is not None:
            self.weights, self.state = self.held, combiner.step_number(micro.saved, self.held.device)
        else:
            nothing: Row = [None] * len(micro.params)
            so_far = micro.with_rows(self.averaged, [nothing], micro.params)
            self.weights, self.state = combiner.weights_by_losses(so_far, micro.saved)

    def local_rows(self) -> Gradients:
        micro = self.micro
        self.find_weights()
        if not self.values:
            return Gradients((), [], [])
        weights = torch.stack([self.weights[i] for i, name in enumerate(self.filled.names) if name in self.values])
        return weighted_gradient(
            self.values,
            weights,
            micro.params,
            engine=micro.settings.engine,
            scale=micro.scale,
            retain_graph=micro.retain_graph,
        )

    def unsynced(self, local: Gradients) -> AccumulatedGradients:
        rows: list[Row] = list(local.rows) or [[None] * len(self.micro.params)]
        return self.micro.accumulated_of(replace(self.filled, rows=rows))

    def combine(self, local: Gradients, rows: list[Row], params: list[Tensor]) -> Outcome:
        micro, settings = self.micro, self.micro.settings
        accumulated = micro.with_rows(self.averaged, rows, params)
        out = self._out_buffers(accumulated)
        sums = micro.communicator.sums(accumulated.params)
        combination = settings.combiner.write_weighted_row(accumulated, self.weights, out, sums)
        to_hold = weights_to_hold(
            self.filled.names, self.weights, settings.refresh_every, micro.saved, found=self.held is None
        )
        return Outcome(accumulated.params, out, combination, self.state | to_hold, accumulated)


class AtRepresentation(Plan):
    """One row: the trunk's direction, found at the shared tensors, and the plain sum of each head.

    Args:
        micro: what the `backward` was given.
        shared: the tensors through which all losses reach the trunk.
    """

    def __init__(self, micro: MicroBatch, shared: Tensor | Sequence[Tensor]) -> None:
        super().__init__(micro)
        settings = micro.settings
        if settings.blocks is not None or settings.refresh_every > 1:
            raise ValueError(
                "shared= gives one combination on every step: it needs blocks=None and refresh_every=1, got "
                f"blocks={settings.blocks!r} and refresh_every={settings.refresh_every}"
            )
        self.shared = shared

    def prepare(self) -> None:
        micro, communicator = self.micro, self.micro.communicator
        self.found = communicator.all_or_none_raise(
            self._at_shared, lambda found: f"shared= of {micro.describe_with(found.gradients.names)}"
        )
        self.features = [tensor.detach() for tensor in self.found.features]
        self.averaged = communicator.average(
            AccumulatedGradients.from_micro_batch(self.found.gradients, self.features, micro.signals, micro.scale)
        )

    def _at_shared(self) -> Representation:
        micro = self.micro
        micro.check_signals()
        losses = check_losses(micro.in_order)
        return at_representation(losses, self.shared, micro.params, scale=micro.scale, retain_graph=micro.retain_graph)

    def local_rows(self) -> Gradients:
        micro = self.micro
        direction = [torch.zeros_like(tensor) for tensor in self.features]
        sums = micro.communicator.sums_over_samples(self.features)
        given = CombinerInput(self.averaged, None, micro.saved, direction, sums)
        self.combination, self.state = micro.settings.combine(given)
        row = added([*self.found.heads, self.found.through_trunk(direction, micro.params, micro.retain_graph)])
        return Gradients((SUM,), [self.combination.losses[0]], [row])

    def unsynced(self, local: Gradients) -> AccumulatedGradients:
        raise NotImplementedError  # one backward per step, which is always averaged

    def combine(self, local: Gradients, rows: list[Row], params: list[Tensor]) -> Outcome:
        communicator = self.micro.communicator
        [squared] = communicator.sums(params).grams([(rows, range(len(params)))])
        out = communicator.out_buffers(rows, params, False)
        write_row(rows, torch.isfinite(squared[0]), out)
        return Outcome(params, out, self.combination, self.state, None)
