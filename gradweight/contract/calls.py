"""Calls of an optimizer that not every one takes as torch's do."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

__all__ = ["is_torchs", "zero_grad"]


def is_torchs(state_dict: Mapping[str, Any]) -> bool:
    """Whether a state dict has the form of torch's own, which optimizers around others need not have."""
    return "state" in state_dict and "param_groups" in state_dict


def zero_grad(base: Optimizer, set_to_none: bool) -> None:
    """The base's ``zero_grad``, in its own way if it takes no argument."""
    if _takes_set_to_none(type(base).zero_grad):
        base.zero_grad(set_to_none)
    else:
        base.zero_grad()


@functools.cache
def _takes_set_to_none(method: Callable[..., None]) -> bool:
    _, *parameters = inspect.signature(method).parameters.values()
    return any(p.kind is not inspect.Parameter.KEYWORD_ONLY and p.kind is not p.VAR_KEYWORD for p in parameters)
