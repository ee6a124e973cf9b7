"""OptimizerWrapper: an optimizer whose parameter groups, state and defaults are those of another one."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from .step_hooks import fill_hook_tables, restore, without_hooks

__all__ = ["OptimizerWrapper"]


class OptimizerWrapper(Optimizer):
    """A `torch.optim.Optimizer` around another one, whose `param_groups`, `state` and `defaults` *are* the base's.

    Args:
        base: the optimizer to wrap.
    """

    # A forwarded True makes GradScaler leave the inf check to the base, which then writes NaN into the parameters.
    _step_supports_amp_scaling = False

    def __init__(self, base: Optimizer) -> None:
        # Optimizer.__init__ is not called: it would make param_groups, state and defaults of our own, and the base
        # rebinds its own on load_state_dict, so copies and aliases go stale. What else it sets up is set up below.
        self.base = base
        fill_hook_tables(self)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's parameter groups themselves."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The base optimizer's state itself."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The base optimizer's defaults themselves."""
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base, for what is computed next."""
        self.base.add_param_group(param_group)

    def __getattr__(self, name: str) -> Any:
        # not of torch's optimizers, so that hosts ask whether it is there: schedule-free bases have it
        if name in ("train", "eval") and "base" in self.__dict__:
            return getattr(self.base, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return without_hooks(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)
