"""Held weights: `refresh_every` finds weights for a set of losses now and then, and holds them in between."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..gradients.losses import Losses, are_functions
from ..linalg.host_access import is_captured
from ..rule import State
from .state_names import for_losses

__all__ = ["held_weights", "weights_to_hold"]


def held_weights(losses: Losses, every: int, saved: State, parameter: Tensor) -> Tensor | None:
    """The weights that were found for these losses less than ``every`` steps ago; None if there are none.

    Raises:
        TypeError: losses that are functions.
        RuntimeError: the step is being captured in a CUDA graph.
    """
    if every == 1:
        return None
    if are_functions(losses):
        raise TypeError(f"refresh_every={every} needs a mapping of tensors; got functions")
    if not isinstance(losses, Mapping):
        return None  # no losses at all, as the plan for new weights will say
    if is_captured(parameter):
        raise RuntimeError(
            f"refresh_every={every} has the host decide which steps find new weights, and a step that is captured in "
            "a CUDA graph does the same at every replay: capture with refresh_every=1"
        )
    found: int | None = saved.get(for_losses("step", losses))
    if found is None or saved["steps"] - found >= every:
        return None
    held: Tensor = saved[for_losses("weights", losses)]
    return held


def weights_to_hold(names: tuple[str, ...], weights: Tensor, every: int, saved: State, *, found: bool) -> State:
    """The entries of the state to write: the number of the step, and the weights if they were ``found`` in it."""
    if every == 1:
        return {}
    steps: int = saved.get("steps", 0)
    new: State = {for_losses("weights", names): weights, for_losses("step", names): steps} if found else {}
    return new | {"steps": steps + 1}
