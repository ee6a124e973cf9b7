"""SeveralOptimizers: optimizers of different parameters as one, each stepping its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .calls import is_torchs, zero_grad
from .step_hooks import fill_hook_tables, restore, with_step_hooks, without_hooks

__all__ = ["SeveralOptimizers", "bases_of"]


class SeveralOptimizers(Optimizer):
    """A `torch.optim.Optimizer` over the parameters of several, whose groups and states *are* theirs.

    `step` steps each of them, once. The state dict has the form that torch gives to one optimizer over all groups, its
    parameters numbered through. A base that is given to hosts by itself goes on working: nothing is kept here.

    Args:
        optimizers: what is stepped, in this order.

    Raises:
        ValueError: two of them have a parameter in common, which would be stepped twice.
    """

    _step_supports_amp_scaling = False

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        # as in the wrapper, torch's own __init__ would make parameter groups and a state that go stale
        self.optimizers = list(optimizers)
        owners: dict[Tensor, int] = {}
        for i, optimizer in enumerate(self.optimizers):
            for p in _params(optimizer):
                if owners.setdefault(p, i) != i:
                    both = f"{type(self.optimizers[owners[p]]).__name__} and in {type(optimizer).__name__}"
                    raise ValueError(
                        "several bases must share no parameter, which each of them would step; one of shape "
                        f"{tuple(p.shape)} is in {both}"
                    )
        fill_hook_tables(self)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """All parameter groups, those of the first optimizer first."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> _States:  # type: ignore[override]
        """The state of every parameter."""
        return _States(self.optimizers)

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """What all of them have a default for, with that of the first."""
        first, *others = (optimizer.defaults for optimizer in self.optimizers)
        return {key: value for key, value in first.items() if all(key in other for other in others)}

    @with_step_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate the closure once, and step each optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state dicts of all, as that of one optimizer over all groups.

        What a base has beside the states of its parameters and its groups is added, under ``bases`` and its index.
        """
        whole: dict[str, Any] = {"state": {}, "param_groups": []}
        others: dict[str, Any] = {}
        first = 0
        for i, optimizer in enumerate(self.optimizers):
            part = optimizer.state_dict()
            if is_torchs(part):
                whole["state"] |= {first + k: state for k, state in part["state"].items() if isinstance(k, int)}
                groups = part["param_groups"]
                other = {key: value for key, value in part.items() if key not in whole}
                if of_none := {k: state for k, state in part["state"].items() if not isinstance(k, int)}:
                    other["state"] = of_none
            else:
                groups, other = _numbered_groups(optimizer), part
            whole["param_groups"] += [group | {"params": [first + k for k in group["params"]]} for group in groups]
            if other:
                others[str(i)] = other
            first += len({*_params(optimizer)})
        return whole | {"bases": others} if others else whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each optimizer its share of what `state_dict` returned."""
        groups = iter(state_dict["param_groups"])
        for i, optimizer in enumerate(self.optimizers):
            share = [next(groups) for _ in optimizer.param_groups]
            part = dict(state_dict.get("bases", {}).get(str(i), {}))
            if is_torchs(optimizer.state_dict()):
                # as torch does, by position: distributed checkpoints have names in place of numbers
                numbers = {k: n for n, k in enumerate(dict.fromkeys(k for group in share for k in group["params"]))}
                states = {n: state_dict["state"][k] for k, n in numbers.items() if k in state_dict["state"]}
                part["state"] = states | part.get("state", {})
                part["param_groups"] = [group | {"params": [numbers[k] for k in group["params"]]} for group in share]
            optimizer.load_state_dict(part)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of each optimizer's parameters, in its own way."""
        for optimizer in self.optimizers:
            zero_grad(optimizer, set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raise `TypeError`: whose group it is to be is not said."""
        raise TypeError(
            "add_param_group() needs to know which of several bases is to step the group: call it on that base"
        )

    def __getattr__(self, name: str) -> Any:
        # not of torch's optimizers, so that hosts ask whether it is there: schedule-free ones have it
        if name in ("train", "eval"):
            methods = [getattr(each, name) for each in self.__dict__.get("optimizers", ()) if hasattr(each, name)]
            if methods:
                return partial(_call_each, methods)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return without_hooks(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    def __repr__(self) -> str:
        return f"SeveralOptimizers({self.optimizers!r})"


def bases_of(base: Optimizer) -> list[Optimizer]:
    """The optimizers that step by themselves: those of several, or the one."""
    return base.optimizers if isinstance(base, SeveralOptimizers) else [base]


class _States(MutableMapping[Any, Any]):
    """The states of several optimizers: an entry is read, and written, where its parameter is stepped."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = optimizers

    def __getitem__(self, key: Any) -> Any:
        return self._of(key)[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._of(key)[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._of(key)[key]

    def __contains__(self, key: object) -> bool:
        return any(key in optimizer.state for optimizer in self.optimizers)

    def __iter__(self) -> Iterator[Any]:
        for optimizer in self.optimizers:
            yield from optimizer.state

    def __len__(self) -> int:
        return sum(len(optimizer.state) for optimizer in self.optimizers)

    def __repr__(self) -> str:
        return repr(dict(self))

    def _of(self, key: Any) -> Any:
        for optimizer in self.optimizers:
            if key in optimizer.state or (isinstance(key, Tensor) and any(key is p for p in _params(optimizer))):
                return optimizer.state
        raise KeyError(key)


def _params(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _numbered_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The parameter groups as torch saves them: numbers in place of parameters."""
    numbers = {p: i for i, p in enumerate(dict.fromkeys(_params(optimizer)))}
    return [group | {"params": [numbers[p] for p in group["params"]]} for group in optimizer.param_groups]


def _call_each(methods: Sequence[Callable[[], Any]]) -> None:
    for method in methods:
        method()
