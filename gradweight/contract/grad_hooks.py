"""Post-accumulate-grad hooks: run once a backward, on the combined gradient and not on those of single losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

__all__ = ["grad_hooks_set_aside", "run_grad_hooks"]


def run_grad_hooks(params: Sequence[Tensor]) -> bool:
    """Run what `torch.Tensor.register_post_accumulate_grad_hook` has registered, as torch does after a backward.

    Returns:
        Whether there was any.

    Raises:
        RuntimeError: a hook has cleared ``.grad``, as an optimizer in the backward pass does.
    """
    some = False
    for p in params:
        hooks: dict[int, Callable[[Tensor], Any]] | None = p._post_accumulate_grad_hooks
        if not hooks or p.grad is None:
            continue
        some = True
        for hook in tuple(hooks.values()):
            hook(p)
            if p.grad is None:
                name = f"{getattr(hook, '__module__', None)}.{getattr(hook, '__qualname__', type(hook).__name__)}"
                raise RuntimeError(
                    f"the post-accumulate-grad hook {name} has cleared .grad, as an optimizer that steps in the "
                    "backward pass does: step() would have nothing to follow, and what the rule remembers would "
                    "never advance. Remove the hook, or have gradweight.LossBalancer weigh the losses and go backward "
                    "through what it returns"
                )
    return some


@contextmanager
def grad_hooks_set_aside(params: Sequence[Tensor]) -> Iterator[None]:
    """Within it, no such hook runs: the gradients that accumulate are those of one loss."""
    # FSDP2 runs those of the sharded parameters itself; it looks into the same dict
    tables = [hooks for p in params if (hooks := p._post_accumulate_grad_hooks)]
    kept = [dict(hooks) for hooks in tables]
    for hooks in tables:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, before in zip(tables, kept, strict=True):
            hooks.update(before)
