"""A cell on a device, ready to train."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.cost.cells import Batch, Cell

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """A cell on a device, ready to train; `last` holds the outputs until there are others, as a loop's variables do."""

    cell: Cell
    net: nn.Module
    base: torch.optim.Optimizer
    batch: Batch
    last: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(cell: Cell, device: torch.device) -> Problem:
        """The cell's network with its initial parameters, and an Adam."""
        torch.manual_seed(0)
        with device:  # 88 M parameters and their spectral norms take seconds to set up on a CPU
            net = cell.network().to(device)
        # at a rate of zero a step costs the same, and the problem stays what it is after thousands of them: losses that
        # go to zero leave gradients of denormal numbers, on which a CPU is slow
        base = torch.optim.Adam(net.parameters(), 0.0, capturable=device.type == "cuda")
        return Problem(cell, net, base, cell.batch(device))

    def outputs(self) -> dict[str, Tensor]:
        """The forward pass."""
        outputs = self.cell.outputs(self.net, self.batch)
        self.last.update(outputs)
        return outputs

    def losses(self) -> dict[str, Tensor]:
        """The forward pass, as named losses."""
        return self.cell.losses(self.outputs())
