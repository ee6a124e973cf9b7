"""`ByStreamedGram`: the plan without rows, and which plan a `backward` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..gradients.streamed import streamed_gram
from ..linalg.layout import any_sharded
from ..linalg.rows import Row
from .averages_plan import Averaged
from .micro_batch import MicroBatch
from .plans import AtRepresentation, Outcome, PerLoss, Plan, WeightedSum
from .refresh import held_weights, weights_to_hold

__all__ = ["ByStreamedGram", "plan_for"]


def plan_for(micro: MicroBatch, shared: Tensor | Sequence[Tensor] | None) -> Plan:
    """The plan for what a `backward` was given."""
    settings = micro.settings
    if shared is not None:
        if settings.averager is not None:
            raise ValueError(
                "shared= shows the rule gradients at a tensor of this batch, of which there is no average over the "
                f"steps; {settings.combiner.name} asks for one: leave shared= out"
            )
        return AtRepresentation(micro, shared)
    if micro.accumulated is not None:
        micro.communicator.check_micro_batch(micro.accumulated.params, micro.params)
    if settings.averager is not None:
        return Averaged(micro, settings.averager)
    held = held_weights(micro.in_order, settings.refresh_every, micro.saved, micro.params[0])
    if held is not None or (settings.blocks is None and not settings.combiner.needs_gradients):
        return WeightedSum(micro, held)
    return ByStreamedGram(micro) if settings.engine == "gram" else PerLoss(micro)


class ByStreamedGram(WeightedSum):
    """One row, the gradient of the weighted sum; the rule sees the Gram matrix of rows that never exist.

    Each micro-batch has weights of its own, by its own Gram matrix: that of the big batch has products of one
    micro-batch's gradients with another's, which need rows. What is returned is of the micro-batch, too.

    Args:
        micro: what the `backward` was given.

    Raises:
        ValueError: several processes, whose Gram matrices do not average to that of the averaged gradients; sharded
            parameters.
    """

    def __init__(self, micro: MicroBatch) -> None:
        super().__init__(micro, None)
        if micro.communicator.size > 1 or any_sharded(micro.params):
            got = "sharded parameters" if any_sharded(micro.params) else f"{micro.communicator.size} processes"
            raise ValueError(
                "engine='gram' needs one process and unsharded parameters, because the Gram matrix of averaged "
                "gradients is not the average of the Gram matrices and there are no gradients to average; got "
                f"{got}: use engine='auto', with reduce='scatter' if memory is short"
            )

    def find_weights(self) -> None:
        """Find the Gram matrix, and the weights by it."""
        micro = self.micro
        names = self.filled.names
        here = torch.tensor([i for i, name in enumerate(names) if name in self.values], device=micro.params[0].device)
        losses = {name: self.values[name] for name in names if name in self.values}
        if micro.accumulated is not None and len(losses) < len(names):
            missing = [name for name in names if name not in losses]
            raise ValueError(
                "engine='gram' finds the weights of each micro-batch by itself, so that micro-batches after the first "
                f"need all losses; this one lacks {missing}: use engine='auto' for one task after the other"
            )
        micro.settings.auto.used = "gram"
        found = streamed_gram(losses, micro.params, micro.scale)
        gram = found
        if len(losses) < len(names):
            gram = found.new_zeros(len(names), len(names))
            gram[here.unsqueeze(1), here] = found
        nothing: Row = [None] * len(micro.params)
        by_itself = replace(self.averaged, params=micro.params, rows=[nothing])
        sums = micro.communicator.sums(micro.params)
        self.seen, self.state = micro.settings.combiner.weights_by_gram(by_itself, micro.saved, sums, gram)
        self.weights = self.seen.weights

    def combine(self, local: object, rows: list[Row], params: list[Tensor]) -> Outcome:
        """The direction, and the combination with the matrix that was found."""
        micro = self.micro
        accumulated = micro.with_rows(self.averaged, rows, params)
        out = self._out_buffers(accumulated)
        sums = micro.communicator.sums(accumulated.params)
        written = micro.settings.combiner.write_weighted_row(accumulated, self.weights, out, sums)
        combination = replace(self.seen, weights=written.weights)
        every = micro.settings.refresh_every
        to_hold = weights_to_hold(combination.names, combination.weights, every, micro.saved, found=True)
        return Outcome(accumulated.params, out, combination, self.state | to_hold, accumulated)
