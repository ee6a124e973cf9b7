"""Where averages of the gradients lie: in the base optimizer's state of each parameter, once the step is taken."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..linalg.host_access import is_launch_bound
from ..linalg.layout import any_sharded, fits
from ..linalg.rows import Row

__all__ = ["ProposedAverages", "has_average", "kept_averages"]


@dataclass(frozen=True)
class ProposedAverages:
    """Averages as they are to be once the step is taken.

    Args:
        keys: the name of each loss's average in the state of a parameter.
        params: the parameters that the rows refer to.
        rows: one for each loss, as the optimizer keeps them: whole, or sharded as the parameters are.
        along: the parameters along whose gradients an optimizer was about to step.
    """

    keys: list[str]
    params: list[Tensor]
    rows: list[Row]
    along: set[Tensor] = field(default_factory=set)

    def see(self, optimizer: Optimizer) -> None:
        """Note which gradients the optimizer is about to step along, for who comes after it may clear them."""
        self.along.update(p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)

    def commit(
        self, state: MutableMapping[Any, Any], optimizer: Optimizer | None, *, all_followed: bool
    ) -> ProposedAverages | None:
        """Keep those of the parameters that were stepped in the base optimizer's state; those of the others, or None.

        Args:
            state: the base optimizer's.
            optimizer: what has stepped; None for all of several, or for another one.
            all_followed: whether all gradients count as stepped along, whatever became of them.

        On a GPU they are copied into the tensors that are there: the replay of a step that was captured in a CUDA graph
        reads what it has written the time before only if that is the same memory. On a CPU they take their place.
        """
        stepped = None if optimizer is None else {p for group in optimizer.param_groups for p in group["params"]}
        there: list[Tensor] = []
        new: list[Tensor] = []
        for key, row in zip(self.keys, self.rows, strict=True):
            for p, average in zip(self.params, row, strict=True):
                if average is None or (stepped is not None and p not in stepped):
                    continue
                # an optimizer makes its own state where a parameter has none, at its first step along a gradient
                if not (all_followed or p in self.along or p.grad is not None or _state_of(p, state)):
                    continue
                old = state[p].get(key)
                if old is None or not is_launch_bound(old.device) or not fits(average, old):
                    state[p][key] = average
                elif old is not average:
                    there.append(old)
                    new.append(average)
        if any_sharded(there):  # whose multi-tensor copy torch has not
            for old, average in zip(there, new, strict=True):
                old.copy_(average)
        elif there:
            torch._foreach_copy_(there, new)
        if stepped is None:
            return None
        rest: list[Row] = [
            [None if p in stepped else t for p, t in zip(self.params, row, strict=True)] for row in self.rows
        ]
        return replace(self, rows=rest) if any(t is not None for row in rest for t in row) else None


def has_average(state: Mapping[Any, Any], keys: Sequence[str]) -> bool:
    """Whether any parameter has such an average; those of a block have none before the first gradient there."""
    return any(key in entries for entries in state.values() if isinstance(entries, Mapping) for key in keys)


def kept_averages(state: Mapping[Any, Any], key: str, params: Sequence[Tensor]) -> Row:
    """What the state has for each of the parameters under this name."""
    return [_state_of(p, state).get(key) for p in params]


def _state_of(p: Tensor, state: Mapping[Any, Any]) -> dict[str, Any]:
    if p not in state:  # get() of the state of several optimizers would make an entry
        return {}
    found: dict[str, Any] = state[p]
    return found
