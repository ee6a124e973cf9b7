"""What can be seen just before the base steps: whether ``.grad`` is what it should step along.

=========================================================  ========================================================
``.grad`` at `step`                                        what is done
=========================================================  ========================================================
as `backward` has written it                               right
changed in place (clipping, noise, a further `.backward`)  right: the step follows what is there
other tensors, or none, where `backward` has written       a warning, once
written by something else before the first `backward`      a warning, once; later it is right, as R1 by itself is
written by something else, or not, after a `split_at`      a warning, once
still multiplied by the scale of a `GradScaler`            an error
=========================================================  ========================================================

A direction that is cleared before any step follows it is right too: a step may be left out. Two cases are a warning: a
closure that leaves nothing, and many in a row while a rule has something to remember.

``base.step()`` by itself is a step as well: what the rule remembers is kept.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

from ..contract.several import bases_of
from .grad_watch import GradWatch
from .phase import Phase

__all__ = ["check_scaler", "check_synced", "warn_of_cleared_closure", "warn_of_no_step", "warn_of_other_gradients"]

_LEVEL = 5  # the caller of the wrapper's step()


def check_synced(phase: Phase) -> None:
    """Raise `RuntimeError` if there are gradients that were not averaged over the processes."""
    if phase is Phase.UNSYNCED:
        raise RuntimeError(
            "step() came after backwards within no_sync() only, whose gradients have not been averaged over the "
            "processes: leave no_sync() for the last micro-batch of each step"
        )


def check_scaler(scaler: Any, base: Optimizer) -> None:
    """Raise `RuntimeError` unless the gradients that were scaled have been divided by the scale exactly once."""
    states = getattr(scaler, "_per_optimizer_states", None)
    if states is None:
        return
    if any(id(each) in states for each in bases_of(base)):
        raise RuntimeError(
            "the scaler was given the base optimizer as well as the wrapper, and has divided .grad by the scale "
            "twice: call unscale_(opt) and step(opt) with the wrapper"
        )
    # whatever a training framework has put around the wrapper is what the scaler knows
    if scaler.is_enabled() and not any(state["stage"] is OptState.UNSCALED for state in states.values()):
        raise RuntimeError(
            "step() came while .grad is still multiplied by the loss scale of the scaler that backward() was given: "
            "call scaler.step(opt) and scaler.update() instead of opt.step()"
        )


def warn_of_other_gradients(watch: GradWatch | None, base: Optimizer, *, begun: bool, unreached: bool) -> bool:
    """Warn if the step that is to come follows other gradients than the rule's; returns whether it did.

    Args:
        watch: what `backward` has written for this step; None if nothing.
        base: the base optimizer.
        begun: whether `backward` was ever called.
        unreached: whether what `split_at` returned was given up before a backward pass came to it.
    """
    if watch is not None and watch.replaced():
        warnings.warn(
            "step() found other tensors in .grad, or none, than the last backward() has written, so that the rule "
            "takes no part in this step: was .grad cleared, or loss.backward() called, in between? Change gradients in "
            "place (as torch.nn.utils.clip_grad_norm_ does) to have this warning go away",
            stacklevel=_LEVEL,
        )
        return True
    if watch is None and unreached:
        warnings.warn(
            "step() follows no direction of the rule, and what split_at() returned was given up before a backward pass "
            "came to it: compute the loss from these tensors, not from those that were given, and call backward() "
            "without inputs=",
            stacklevel=_LEVEL,
        )
        return True
    # at a rate of zero, which nothing follows, distributed checkpoints have an optimizer make its state
    follows = [group for group in base.param_groups if not (isinstance(group.get("lr"), float) and group["lr"] == 0)]
    if not begun and any(p.grad is not None for group in follows for p in group["params"]):
        warnings.warn(
            "step() follows gradients that were not written by the wrapper, whose backward() was never called, so that "
            "the rule takes no part in training: call opt.backward({name: loss, ...}) in place of loss.backward(), or, "
            "where a training framework calls it, return opt.join({name: loss, ...})",
            stacklevel=_LEVEL,
        )
        return True
    return False


MANY = 100
"""Steps that are left out one after the other: more than a `GradScaler` takes to find its first scale."""


def warn_of_no_step(dropped: int, *, remembers: bool) -> int:
    """Warn, once, if so many directions were cleared that another optimizer must step along them; how many were."""
    if remembers and dropped == MANY:
        warnings.warn(
            f"backward() was called {MANY} times without a step(), so that the rule remembers nothing of them: where "
            "another optimizer steps along .grad, call opt.mark_step() after it does",
            stacklevel=_LEVEL,
        )
    return dropped


def warn_of_cleared_closure() -> None:
    """Warn that the closure of the step has cleared the direction, which nothing followed."""
    warnings.warn(
        "the closure of step() called backward(), and then the gradients were cleared, so that this step follows none: "
        "in automatic optimization the framework goes backward itself; return self.optimizers().join({name: loss, "
        "...}) from training_step in place of calling backward()",
        stacklevel=_LEVEL,
    )
