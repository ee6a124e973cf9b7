"""Steps that the base takes by itself, not called by the wrapper."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from ..contract.several import bases_of
from .phase import Phase

__all__ = ["count_steps"]


if TYPE_CHECKING:
    from .step import Step


def count_steps(step: Step) -> None:
    """Have ``base.step()`` by itself count as a step, too, as long as ``step`` is alive."""
    this = weakref.ref(step)

    def before(base: Optimizer, *_: Any) -> None:
        step = this()
        if step is not None and step.progress.averages is not None:
            step.progress.averages.see(base)

    def after(base: Optimizer, *_: Any) -> None:
        step = this()
        if step is None or step.through_wrapper:
            return
        if step.progress.phase is Phase.READY:
            step.after_base_step(base)
        elif step.progress.phase is Phase.STEPPED:  # another of several has stepped before
            step.keep_averages(base)

    for base in bases_of(step.base):
        if hasattr(base, "_optimizer_step_post_hooks"):  # an optimizer of one's own may have been built without
            base.register_step_pre_hook(before)
            base.register_step_post_hook(after)
