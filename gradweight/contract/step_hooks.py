"""Hooks of the wrapper: around its step, which are not those that torch runs around every optimizer's, and around its
state dict.

What torch itself puts around ``step`` also runs the hooks that were registered for all optimizers. The base is one: it
runs them, and a wrapper that did so as well would have them act on the same gradients a second time.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from torch.optim import Optimizer

__all__ = [
    "fill_hook_tables",
    "restore",
    "with_load_hooks",
    "with_state_dict_hooks",
    "with_step_hooks",
    "without_hooks",
]

T = TypeVar("T", bound=Callable[..., Any])


def with_step_hooks(step: T) -> T:
    """The method with the hooks of `register_step_pre_hook` and `register_step_post_hook` before and after it.

    Raises:
        RuntimeError: a hook before the step returned something else than None or new arguments.
    """

    @functools.wraps(step)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        optimizer = args[0]
        for pre_hook in optimizer._optimizer_step_pre_hooks.values():
            replaced = pre_hook(optimizer, args, kwargs)
            if replaced is None:
                continue
            if not (isinstance(replaced, tuple) and len(replaced) == 2):
                raise RuntimeError(
                    f"a hook before step() must return None or a tuple (new_args, new_kwargs); got {replaced!r}"
                )
            args, kwargs = replaced
        result = step(*args, **kwargs)
        for post_hook in optimizer._optimizer_step_post_hooks.values():
            post_hook(optimizer, args, kwargs)
        return result

    return hooked  # type: ignore[return-value]


def with_state_dict_hooks(state_dict: T) -> T:
    """The method with the hooks of `register_state_dict_pre_hook` and its post hooks before and after it."""

    @functools.wraps(state_dict)
    def hooked(self: Any) -> dict[str, Any]:
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        result: dict[str, Any] = state_dict(self)
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            replaced = post_hook(self, result)
            result = result if replaced is None else replaced
        return result

    return hooked  # type: ignore[return-value]


def with_load_hooks(load_state_dict: T) -> T:
    """The method with the hooks of `register_load_state_dict_pre_hook` and its post hooks before and after it."""

    @functools.wraps(load_state_dict)
    def hooked(self: Any, state_dict: dict[str, Any]) -> None:
        state_dict = copy.copy(state_dict)  # hooks may change it; the caller's own stays as it is
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = pre_hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        load_state_dict(self, state_dict)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    return hooked  # type: ignore[return-value]


def fill_hook_tables(optimizer: Optimizer) -> None:
    """Set up what `torch.optim.Optimizer.__init__` would, for an optimizer that does not call it."""
    optimizer._optimizer_step_pre_hooks = OrderedDict()
    optimizer._optimizer_step_post_hooks = OrderedDict()
    optimizer._optimizer_state_dict_pre_hooks = OrderedDict()
    optimizer._optimizer_state_dict_post_hooks = OrderedDict()
    optimizer._optimizer_load_state_dict_pre_hooks = OrderedDict()
    optimizer._optimizer_load_state_dict_post_hooks = OrderedDict()
    optimizer._warned_capturable_if_run_uncaptured = True


def restore(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Set the attributes that `without_hooks` returned, and empty hook tables."""
    optimizer.__dict__.update(state)
    fill_hook_tables(optimizer)


def without_hooks(optimizer: Optimizer) -> dict[str, Any]:
    """The attributes to be pickled: no optimizer's hooks are, nor a scheduler's wrapper of ``step`` on the instance."""
    skip = {"step"} | {name for name in optimizer.__dict__ if name.endswith("_hooks")}
    return {name: value for name, value in optimizer.__dict__.items() if name not in skip}
