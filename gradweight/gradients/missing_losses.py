"""Losses that other processes have and this one does not, which count as zero."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .losses import Losses, are_functions
from .results import Gradients

__all__ = ["RankLosses", "fill_missing_losses"]


@dataclass(frozen=True)
class RankLosses:
    """The losses of one `backward`, and which of them this process has.

    Args:
        here: the losses as they were given, without those that are None here.
        names: of all of them; None where they are what one function returns, which are not known beforehand.
    """

    here: Losses
    names: tuple[str, ...] | None

    @staticmethod
    def of(losses: Any) -> RankLosses:
        """Those that are not None are here. Functions, and what is no mapping, are left as they are."""
        if not isinstance(losses, Mapping):
            return RankLosses(losses, None)
        if are_functions(losses):
            return RankLosses(losses, tuple(losses))
        return RankLosses({name: loss for name, loss in losses.items() if loss is not None}, tuple(losses))

    @property
    def none_here(self) -> bool:
        """Whether there are losses, and this process has none of them."""
        return bool(self.names) and isinstance(self.here, Mapping) and not self.here

    @property
    def names_here(self) -> tuple[str, ...]:
        """The names of those that this process has, where they are known beforehand."""
        return tuple(self.here) if isinstance(self.here, Mapping) else ()

    def in_order(self, found: Collection[str]) -> tuple[str, ...]:
        """The names of all losses, once those that were ``found`` here are known."""
        return tuple(found) if self.names is None else self.names


def fill_missing_losses(values: Mapping[str, Tensor], names: tuple[str, ...], params: Sequence[Tensor]) -> Gradients:
    """The values of all losses, those that this process does not have at zero; no rows."""
    losses = [values[name].detach() for name in names if name in values]
    if len(losses) < len(names):
        missing = torch.zeros((), dtype=params[0].dtype, device=params[0].device)
        losses = [values.get(name, missing).detach() for name in names]
    return Gradients(names, losses, [])
