"""`Averaged`: the plan for a rule that is shown averages of the gradients over the steps."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..gradients.results import Gradients
from ..linalg.rows import Row
from ..linalg.weighted_sum import weighted_sum
from .averages import Averager
from .combiner_input import CombinerInput
from .micro_batch import MicroBatch
from .plans import Outcome, PerLoss

__all__ = ["Averaged"]


class Averaged(PerLoss):
    """One row per loss that is due, all averaged over the steps, and the rule sees the averages' Gram matrix.

    Args:
        micro: what the `backward` was given.
        averager: what averages.
    """

    def __init__(self, micro: MicroBatch, averager: Averager) -> None:
        super().__init__(micro)
        self.averager = averager

    def combine(self, local: Gradients, rows: list[Row], params: list[Tensor]) -> Outcome:
        """The direction by the averages, and what they are to be once the step is taken."""
        micro, settings, communicator = self.micro, self.micro.settings, self.micro.communicator
        accumulated = self.accumulated(local, rows, params)
        names = tuple(micro.all_names) or accumulated.names
        place = {name: i for i, name in enumerate(accumulated.names)}
        nothing: Row = [None] * len(accumulated.params)
        unknown = torch.full_like(accumulated.losses[0], torch.nan)
        given = replace(
            accumulated,
            names=names,
            rows=[accumulated.rows[place[name]] if name in place else nothing for name in names],
            losses=torch.stack([accumulated.losses[place[name]] if name in place else unknown for name in names]),
        )
        blocks = micro.blocks_of(accumulated.params)
        # a graph that is retained may hold the very tensors that it returned as gradients
        in_place = not micro.adds_up and not micro.retain_graph
        due = [name in place for name in names]
        kept = micro.base_state, micro.saved
        shown, averages, remembered = self.averager(given, due, blocks, kept, communicator, in_place=in_place)
        out = communicator.out_buffers(shown.rows, shown.params, False)
        sums = communicator.sums(shown.params)
        # not replayed: averages lie elsewhere in memory after every step, where no recording reads
        combination, state = settings.combiner(CombinerInput(shown, blocks, micro.saved | remembered, out, sums))
        ahead = self.averager.extrapolated(shown, out, blocks, (micro.base_state, remembered | state), communicator)
        if ahead is not None:
            key, direction = ahead
            averages = replace(averages, keys=[*averages.keys, key], rows=[*averages.rows, direction])
        if accumulated.scale is not None:
            weighted_sum([list(out)], accumulated.scale.reshape(1), out)
        return Outcome(shown.params, out, combination, remembered | state, accumulated, averages)
