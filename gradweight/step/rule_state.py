"""A rule's state: how it is kept from step to step, and as text, which every kind of checkpoint carries through.

`torch.distributed.checkpoint` fills in what a fresh optimizer already has: of a dict of tensors whose keys are only
known after the first step it would load nothing. A string in a parameter group is replaced as a whole. Numbers are
written so that they read back bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..contract.base import check_state_dict
from ..contract.calls import is_torchs
from ..rule import State
from ..torch_private import storage

__all__ = ["STATE_KEY", "check_readable", "keep", "load", "pack", "save", "saved_in", "unpack"]

STATE_KEY = "rule_state"
"""Where the state lies in ``param_groups[0]``: checkpoints keep what is in `state` and `param_groups` only."""


def saved_in(base: Optimizer) -> State:
    """What the rule remembers, as of the last step taken."""
    group = base.param_groups[0]
    saved: State | str = group.get(STATE_KEY, {})
    if isinstance(saved, str):  # as a checkpoint has it
        saved = group[STATE_KEY] = unpack(saved, group["params"][0].device)
    return saved


def keep(saved: State, changed: State) -> None:
    """Take the entries of ``changed`` over into ``saved``, writing into the tensors that are there where they fit.

    A CUDA graph that is replayed reads what it has written the time before only if that is the same memory. Tensors
    of ``changed`` may be some of ``saved``, under other names too; what is kept has no other owner.

    Example:
        >>> saved = {"now": torch.tensor(1.0), "before": torch.tensor(0.0)}
        >>> now = saved["now"]
        >>> keep(saved, {"now": torch.tensor(2.0), "before": now})
        >>> saved, saved["now"] is now
        ({'now': tensor(2.), 'before': tensor(1.)}, True)
    """
    ours = {storage(tensor) for tensor in _tensors(saved)}
    _keep(saved, _apart(changed, saved, ours))


def _keep(saved: State, changed: State) -> None:
    for name, value in changed.items():
        old = saved.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and value.keys() == old.keys():
            _keep(old, value)
        elif isinstance(value, Tensor) and isinstance(old, Tensor) and _alike(old, value):
            if old is not value:
                old.copy_(value)
        else:
            saved[name] = _own(value)


def _apart(changed: State, saved: Any, ours: set[int]) -> State:
    """``changed`` with copies of what lies in the memory of ``saved`` elsewhere, where it may be overwritten first."""
    apart: State = {}
    for name, value in changed.items():
        old = saved.get(name) if isinstance(saved, dict) else None
        if isinstance(value, dict):
            apart[name] = _apart(value, old, ours)
        else:
            moved = isinstance(value, Tensor) and value is not old and storage(value) in ours
            apart[name] = value.clone() if moved else value
    return apart


def _own(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _own(entry) for name, entry in value.items()}
    return value.detach().clone() if isinstance(value, Tensor) else value


def _tensors(state: State) -> Iterator[Tensor]:
    for value in state.values():
        if isinstance(value, dict):
            yield from _tensors(value)
        elif isinstance(value, Tensor):
            yield value


def _alike(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)


def pack(state: State) -> str:
    """The nested dict of tensors and numbers as JSON; a host sync.

    Example:
        >>> text = pack({"step": torch.tensor(3), "average": {"norms": torch.tensor([0.1, 2.0])}})
        >>> unpack(text, torch.device("cpu"))
        {'step': tensor(3), 'average': {'norms': tensor([0.1000, 2.0000])}}
    """
    return json.dumps(state, default=_plain)


def unpack(text: str, device: torch.device) -> State:
    """What `pack` was given, its tensors on ``device``.

    Raises:
        ValueError: the text is not what `pack` returns.
    """

    def restore(value: dict[str, Any]) -> Any:
        if value.keys() != {"dtype", "data"}:
            return value
        return torch.tensor(value["data"], dtype=getattr(torch, value["dtype"]), device=device)

    try:
        state: State = json.loads(text, object_hook=restore)
        if isinstance(state, dict):
            return state
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(_unreadable(text)) from error
    raise ValueError(_unreadable(text))


def save(base: Optimizer) -> dict[str, Any]:
    """The base's state dict with the rule's state as text: in the first group, or beside what another form has."""
    group = base.param_groups[0]
    state = group.pop(STATE_KEY, None)  # what packs the groups in its own way knows nothing of a dict in them
    try:
        state_dict: dict[str, Any] = base.state_dict()
    finally:
        if state is not None:
            group[STATE_KEY] = state
    if state is None:
        return state_dict
    text = pack(state) if isinstance(state, dict) else state
    if not is_torchs(state_dict):
        return {**state_dict, STATE_KEY: text}
    state_dict["param_groups"][0][STATE_KEY] = text
    return state_dict


def load(base: Optimizer, state_dict: dict[str, Any]) -> None:
    """Have the base load what `save` returned, and take the rule's state over.

    Raises:
        TypeError, ValueError: no state dict, other groups, an unreadable rule's state; nothing has been loaded.
    """
    group = base.param_groups[0]
    before = group.pop(STATE_KEY, None)
    try:
        check_state_dict(state_dict, base)
        whole = is_torchs(state_dict)
        holders = state_dict["param_groups"] if whole else [state_dict]
        check_readable(holders)
        state = holders[0].get(STATE_KEY)
        base.load_state_dict(state_dict if whole else {k: v for k, v in state_dict.items() if k != STATE_KEY})
    except BaseException:
        if before is not None:
            group[STATE_KEY] = before
        raise
    if state is not None:
        base.param_groups[0].setdefault(STATE_KEY, state)


def check_readable(groups: Iterable[dict[str, Any]]) -> None:
    """Raise `ValueError` if a rule's state in the parameter groups of a checkpoint cannot be read."""
    for group in groups:
        state = group.get(STATE_KEY, {})
        if isinstance(state, str):
            unpack(state, torch.device("cpu"))
        elif not isinstance(state, dict):  # a dict is what the bare base's state_dict() has
            raise ValueError(_unreadable(state))


def _unreadable(state: object) -> str:
    text = repr(state)
    start = text if len(text) < 60 else f"{text[:60]}..."
    return f"a rule's state in a checkpoint must be what state_dict() has written, JSON of tensors; got {start}"


def _plain(value: object) -> dict[str, Any]:
    if not isinstance(value, Tensor):
        raise TypeError(f"a rule's state must hold tensors and numbers; got {type(value).__name__}")
    return {"dtype": str(value.dtype).removeprefix("torch."), "data": value.detach().tolist()}
