"""A rule's state as text, the one form that every kind of checkpoint carries through.

`torch.distributed.checkpoint` fills in what a fresh optimizer already has: of a dict of tensors whose keys are only
known after the first step it would load nothing. A string in a parameter group is replaced as a whole. Numbers are
written so that they read back bit for bit.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from .rule import State

__all__ = ["STATE_KEY", "pack", "unpack"]

STATE_KEY = "rule_state"
"""Where the state lies in ``param_groups[0]``: checkpoints keep what is in `state` and `param_groups` only."""


def pack(state: State) -> str:
    """The nested dict of tensors and numbers as JSON; this waits for the device.

    Example:
        >>> text = pack({"step": torch.tensor(3), "average": {"norms": torch.tensor([0.1, 2.0])}})
        >>> unpack(text, torch.device("cpu"))
        {'step': tensor(3), 'average': {'norms': tensor([0.1000, 2.0000])}}
    """
    return json.dumps(state, default=_plain)


def unpack(text: str, device: torch.device) -> State:
    """What `pack` was given, its tensors on ``device``."""

    def restore(value: dict[str, Any]) -> Any:
        if value.keys() != {"dtype", "data"}:
            return value
        return torch.tensor(value["data"], dtype=getattr(torch, value["dtype"]), device=device)

    state: State = json.loads(text, object_hook=restore)
    return state


def _plain(value: object) -> dict[str, Any]:
    if not isinstance(value, Tensor):
        raise TypeError(f"a rule's state must hold tensors and numbers; got {type(value).__name__}")
    return {"dtype": str(value.dtype).removeprefix("torch."), "data": value.detach().tolist()}
